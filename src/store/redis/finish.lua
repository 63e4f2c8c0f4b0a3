-- Records that a call's answer has arrived, and its outcome.
--
-- KEYS: the account's pause, the order's lease, its snapshot, then the windows. ARGV: the time, the
-- lease's owner and life, the longest period, the longest flight, the call's mark, whether the account
-- is resumed (1 or 0), which of the windows is the order's own (0: none), the five arguments of `put`
-- (an empty state: none), then each window's period. Answers {found, state, behind, spent, ahead}: the
-- answers of `put` and `spent`.

local owner, mark, state = ARGV[2], ARGV[6], ARGV[11]

-- A slot becomes free one period from now, or earlier.
for i = 4, #KEYS do
  if kind(KEYS[i]) == 'zset' then
    redis.call('ZADD', KEYS[i], 'XX', 'LT', now_up + tonumber(ARGV[10 + i]), mark)
  end
end

-- Answers to calls from before the probe was admitted resume nothing.
if ARGV[7] == '1' and kind(KEYS[1]) == 'hash' and redis.call('HEXISTS', KEYS[1], 'probe') == 1 then
  redis.call('DEL', KEYS[1])
end

local found, known, behind = 0, false, 0
if state ~= '' then
  found, known, behind = put(KEYS[3], unpack(ARGV, 9, 13))
  if owner ~= '' and is_held_by(KEYS[2], owner) then
    redis.call('DEL', KEYS[2])
  end
end

local slots = {}
local own = tonumber(ARGV[8])
if own > 0 then
  local garbage
  slots, garbage = spent(KEYS[3 + own], tonumber(ARGV[4]), tonumber(ARGV[5]))
  if garbage then
    return garbage
  end
end
return {found, known, behind, slots, ahead}
