-- Remembers an order's state, unless what is remembered was observed later or is terminal. What seems
-- to be observed in the future is of a clock that was ahead, and must not keep the truth out until then.
--
-- KEYS: the snapshot. ARGV: the time, when the state was observed, whether it is terminal, its
-- bytes, how long to keep it if it is not, and how far clocks may differ. Answers {found, state,
-- ahead}: what was found as `snapshot` says it, with its bytes where they stay.

local observed, terminal, state = ARGV[2], ARGV[3], ARGV[4]

-- In how many seconds a time is that is written as `observed` is: seconds from 2^63 before
-- 1970 on, in twenty digits, which are two halves that Lua's numbers can hold.
local function away(time)
  local high, low = tonumber(string.sub(time, 1, 10)), tonumber(string.sub(time, 11, 20))
  return (high - 922337203) * 1e10 + low - 6854775808 - math.floor(now / 1000)
end

local found, known_at, known_terminal, known = snapshot(KEYS[1])
if found == 1 and not known_terminal and away(known_at) * 1000 > tonumber(ARGV[6]) then
  ahead = math.min(away(known_at) * 1000, 2^53)
end
if found == 1 and (known_terminal or observed < known_at and ahead == 0) then
  return {found, known, 0}
end
-- A new key: it has no expiry, and nothing of what was there.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'observed', observed, 'terminal', terminal, 'state', state,
  'sum', sum(observed, terminal, state))
if terminal ~= '1' then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return {found, false, ahead}
