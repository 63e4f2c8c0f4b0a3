-- Pauses an account for a while, replacing any other pause.
--
-- KEYS: the pause. ARGV: the time, how long, how long to wait after each probe (0: no probes), whether it
-- only restores a lost pause and so replaces none (1 or 0). A pause with probes has no end of its own: it
-- stays until the account is resumed.

local wait, every = tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[4] == '1' and kind(KEYS[1]) ~= 'none' then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'until', now_up + wait, 'every', every)
if every == 0 then
  redis.call('PEXPIRE', KEYS[1], wait + SLACK)
end
return 0
