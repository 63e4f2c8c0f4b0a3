-- Frees a call's slots: nothing was sent.
--
-- KEYS: the windows. ARGV: the time, the call's mark.

for i = 1, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[2])
end
return 0
