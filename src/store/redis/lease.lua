-- Makes someone the one who does something, for a while: 1, or 0 while another one is.
--
-- KEYS: the lease. ARGV: the time, the owner, how long. Its end is written beside the owner, so
-- that one clock rules it as it rules all else; the key's expiry only clears it away. What cannot
-- be read holds nobody off: the worst is that two do it once, and a lease that nobody holds would
-- last for ever.

if kind(KEYS[1]) == 'hash' then
  local held = redis.call('HMGET', KEYS[1], 'owner', 'until')
  local till = number(held[2])
  if held[1] and held[1] ~= ARGV[2] and till and till > now then
    return 0
  end
end
local life = tonumber(ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'until', now_up + life)
redis.call('PEXPIRE', KEYS[1], life + SLACK)
return 1
