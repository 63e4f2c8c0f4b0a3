-- Ends a replica's membership: it makes no more calls, and nobody waits for it.
--
-- KEYS: the fence. ARGV: the time, the replica's id.

local found = fence(KEYS[1], 'members')
if found and found[3] then
  local id = string.gsub(ARGV[2], '%W', '%%%0')
  local left = string.format('%s 0 %.0f ', ARGV[2], now_up)
  redis.call('HSET', KEYS[1], 'members', (string.gsub(found[3], id .. ' %d+ %d+ ', left)))
end
return 0
