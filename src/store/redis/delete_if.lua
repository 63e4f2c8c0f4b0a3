-- Deletes a token or a lease, but only if it is still the one that is meant.
--
-- KEYS: the token or the lease. ARGV: the time, the field that tells (`value` or `owner`), what it
-- must be.

local held = kind(KEYS[1]) == 'hash' and fields(KEYS[1], LONGEST_TEXT, ARGV[2])
if held and held[1] == ARGV[3] then
  redis.call('DEL', KEYS[1])
end
return 0
