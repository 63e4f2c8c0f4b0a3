-- Reads what is known of an order, and what is spent of its own limit.
--
-- KEYS: the snapshot, and the order's window where it has one. ARGV: the time. Answers {found,
-- state, spent}: what was found as `snapshot` says it, and in how long each slot is free again,
-- earliest first.

local spent = {}
if KEYS[2] then
  local slots = redis.call('ZRANGE', KEYS[2], string.format('(%d', now), '+inf', 'BYSCORE', 'WITHSCORES')
  for i = 2, #slots, 2 do
    local free = number(slots[i])
    if not free then
      return redis.error_reply('GARBAGE what is spent cannot be read')
    end
    spent[#spent + 1] = free - now
  end
end
local found, _, _, state = snapshot(KEYS[1])
return {found, state or false, spent}
