-- Reads what is known of an order, and what is spent of its own limit.
--
-- KEYS: the snapshot, and the order's window where it has one. ARGV: the time, the longest period, the
-- longest flight. Answers {found, state, spent, ahead}: what was found as `snapshot` says it, and in
-- how long each slot is free again, earliest first.

local spent = {}
if KEYS[2] then
  local longest_period, longest_flight = tonumber(ARGV[2]), tonumber(ARGV[3])
  local function taken()
    local from = string.format('(%d', now)
    return redis.call('ZRANGE', KEYS[2], from, '+inf', 'BYSCORE', 'WITHSCORES')
  end
  local slots = taken()
  local last = number(slots[#slots] or '0')
  if last and last - now_up - longest_period - longest_flight > TOLERANCE then
    cut(KEYS[2], longest_period, longest_flight)
    slots = taken()
  end
  for i = 2, #slots, 2 do
    local free = number(slots[i])
    if not free then
      return redis.error_reply('GARBAGE what is spent cannot be read')
    end
    spent[#spent + 1] = free - now
  end
end
local found, _, _, state = snapshot(KEYS[1])
return {found, state or false, spent, ahead}
