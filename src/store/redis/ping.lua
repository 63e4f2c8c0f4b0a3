-- Proves that the server allows these scripts everything they need: it runs every command that they
-- use, on keys of its own. The keys are deleted at the end, or expire soon after an interrupted run.
--
-- KEYS: two, which a cluster would not keep on one node. ARGV: the time, how long the keys last at
-- most.

local hash, set, life = KEYS[1], KEYS[2], tonumber(ARGV[2])
redis.call('HSET', hash, 'field', 'value')
redis.call('PEXPIRE', hash, life)
redis.call('HSTRLEN', hash, 'field')
redis.call('HMGET', hash, 'field')
redis.call('HEXISTS', hash, 'field')
redis.call('TYPE', hash)
redis.call('ZADD', set, now, 'member')
redis.call('PEXPIRE', set, life)
redis.call('ZRANGE', set, 0, -1)
redis.call('ZSCORE', set, 'member')
redis.call('ZCARD', set)
redis.call('ZREM', set, 'member')
redis.call('ZREMRANGEBYSCORE', set, '-inf', now)
redis.call('DEL', hash, set)
return 0
