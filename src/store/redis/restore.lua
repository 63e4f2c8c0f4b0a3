-- Restores a replica's own slots in a window: the server may have lost them.
--
-- KEYS: the window, and the fence (in a cluster its stamp at the tag of the window). ARGV: the time, the epoch,
-- then for each slot its call's mark, and how long until it becomes free. Answers 1, or 0 if this is not the
-- epoch's server: in a cluster, one replica may still speak to a node that the others have left.

if not is_of(KEYS[2], ARGV[2]) then
  return 0
end
local holds = kind(KEYS[1])
if holds ~= 'none' and holds ~= 'zset' then
  -- Garbage stays: it closes the window.
  return 1
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
last = number(last[2] or '0') or 0
for i = 3, #ARGV, 2 do
  local free = now_up + tonumber(ARGV[i + 1])
  redis.call('ZADD', KEYS[1], 'GT', free, ARGV[i])
  last = math.max(last, free)
end
redis.call('PEXPIRE', KEYS[1], last - now + SLACK)
return 1
