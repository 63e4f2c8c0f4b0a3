-- Opens a closed account.
--
-- KEYS: the closure. ARGV: the time.

redis.call('DEL', KEYS[1])
return 0
