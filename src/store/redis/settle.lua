-- Notes that a call's answer has come: its slots are free a period from now, if not before.
--
-- KEYS: the windows. ARGV: the time, the call's id, then each window's period.

for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', 'LT', now_up + tonumber(ARGV[i + 2]), ARGV[2])
end
return 0
