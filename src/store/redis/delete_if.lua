-- Deletes a token or a lease, but only if it still has the expected value.
--
-- KEYS: the token or the lease. ARGV: the time, the field to compare (`value` or `owner`), the expected
-- value.

local held = kind(KEYS[1]) == 'hash' and fields(KEYS[1], LONGEST_TEXT, ARGV[2])
if held and held[1] == ARGV[3] then
  redis.call('DEL', KEYS[1])
end
return 0
