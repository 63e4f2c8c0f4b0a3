-- Remembers an order's state, unless what is remembered was observed later or is terminal.
--
-- KEYS: the snapshot. ARGV: the time, when the state was observed, whether it is terminal, its
-- bytes, and how long to keep it if it is not. Answers {found, state}: what was found as
-- `snapshot` says it, with its bytes where they stay.

local observed, terminal, state = ARGV[2], ARGV[3], ARGV[4]
local found, known_at, known_terminal, known = snapshot(KEYS[1])
if found == 1 and (known_terminal or observed < known_at) then
  return {found, known}
end
-- A new key: it has no expiry, and nothing of what was there.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'observed', observed, 'terminal', terminal, 'state', state,
  'sum', sum(observed, terminal, state))
if terminal ~= '1' then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return {found, false}
