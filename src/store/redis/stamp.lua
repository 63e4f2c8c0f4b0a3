-- Stamps one tag of a cluster for a new epoch, if nothing was lost since the survey.
--
-- KEYS: the stamp. ARGV: the time, the epoch, the replication ids of all nodes in the survey, and the epoch of
-- the stamp in the survey (empty: none). Answers 1, or 0 if something may have been lost since.

local found = fence(KEYS[1])
local before = found and found[1] or ''
if not string.find(ARGV[3], replication_id(), 1, true) then
  return 0
elseif before == ARGV[2] then
  return 1
elseif before ~= ARGV[4] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'server', ARGV[3], 'at', now_up)
return 1
