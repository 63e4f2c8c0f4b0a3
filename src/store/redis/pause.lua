-- Pauses an account for a while, replacing any other pause.
--
-- KEYS: the pause. ARGV: the time, how long, how long to wait after each probe (0: no probes). A pause
-- with probes has no end of its own: it stays until the account is resumed.

local wait, every = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'until', now_up + wait, 'every', every)
if every == 0 then
  redis.call('PEXPIRE', KEYS[1], wait + SLACK)
end
return 0
