-- Restores a replica's own slots in a window: the server may have lost them.
--
-- KEYS: the window. ARGV: the time, then for each slot its call's mark, and how long until it becomes free.

local holds = kind(KEYS[1])
if holds ~= 'none' and holds ~= 'zset' then
  -- Garbage stays: it closes the window.
  return 0
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
last = number(last[2] or '0') or 0
for i = 2, #ARGV, 2 do
  local free = now_up + tonumber(ARGV[i + 1])
  redis.call('ZADD', KEYS[1], 'GT', free, ARGV[i])
  last = math.max(last, free)
end
redis.call('PEXPIRE', KEYS[1], last - now + SLACK)
return 0
