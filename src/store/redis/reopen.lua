-- Opens an account that is closed, if a probe was let through since: answers to calls of before
-- open nothing.
--
-- KEYS: the closure. ARGV: the time.

if redis.call('HEXISTS', KEYS[1], 'probe') == 1 then
  redis.call('DEL', KEYS[1])
end
return 0
