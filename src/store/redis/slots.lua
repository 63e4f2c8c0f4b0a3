-- How slots that cannot be true are cut: `scripts.rs` puts this before `take.lua` and `recall.lua`.
--
-- A window is a sorted set: when a call's slot is free, by the call's mark. The mark tells after `~`
-- for how long the call may be in flight; where it does not, that is `longest_flight`.

-- Cuts the slots that are free later than the window's period and the call's flight from now.
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
