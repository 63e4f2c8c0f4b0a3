-- How slots are read, and cut if they cannot be true: `scripts.rs` puts this before the scripts that
-- need it.
--
-- A window is a sorted set: the member is the call's mark, and the score is when its slot becomes free.
-- After `~` the mark states how long the call may be in flight; without it, `longest_flight` applies.

-- Cuts the slots that become free later than the window's period plus the call's flight time from now.
local function cut(key, period, longest_flight)
  local late = string.format('(%d', now_up + period)
  local slots = redis.call('ZRANGE', key, late, '+inf', 'BYSCORE', 'WITHSCORES')
  local last = now_up
  for i = 1, #slots, 2 do
    local free = number(slots[i + 1])
    local flight = number(string.match(slots[i], '~(%d+)$')) or longest_flight
    local till = believed(free, period + flight)
    if till ~= free then
      redis.call('ZADD', key, till, slots[i])
    end
    last = math.max(last, till)
  end
  redis.call('PEXPIRE', key, math.max(last, now_up + period) - now + SLACK)
  return last
end

-- The used slots of a window: how long until each becomes free, earliest first; or an error if they
-- cannot be read.
local function spent(key, longest_period, longest_flight)
  local function taken()
    local from = string.format('(%d', now)
    return redis.call('ZRANGE', key, from, '+inf', 'BYSCORE', 'WITHSCORES')
  end
  local slots = taken()
  local last = number(slots[#slots] or '0')
  if last and last - now_up - longest_period - longest_flight > TOLERANCE then
    cut(key, longest_period, longest_flight)
    slots = taken()
  end
  local left = {}
  for i = 2, #slots, 2 do
    local free = number(slots[i])
    if not free then
      return nil, redis.error_reply('GARBAGE what is spent cannot be read')
    end
    left[#left + 1] = free - now
  end
  return left
end
