-- Reads the fence's stamp at one tag of a cluster: whether the tag's data is whole, and since when it may not be.
--
-- KEYS: the stamp. ARGV: the time. Answers {server, epoch, whole, ago}: `server` is the replication id of the
-- node, `epoch` that of the stamp (empty: none), `whole` is 1 if the stamp's epoch began with this
-- node, and `ago` is how long ago the data was certainly whole.

-- When the stamp's time is written again.
local RENEWED = 30000

local found = fence(KEYS[1], 'at')
local server = replication_id()
if not found then
  return {server, '', 0, 0}
end
local at = number(found[3] or '') or 0
local ago = math.max(now_up - at, 0)
if not string.find(found[2], server, 1, true) then
  return {server, found[1], 0, ago}
end
if ago > RENEWED then
  redis.call('HSET', KEYS[1], 'at', now_up)
end
return {server, found[1], 1, ago}
