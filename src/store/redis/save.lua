-- Stores a token, replacing any other, until it should be renewed.
--
-- KEYS: the token. ARGV: the time, the token, how long it is valid, whether it only restores a lost token
-- and so replaces none (1 or 0).

local life = tonumber(ARGV[3])
if ARGV[4] == '1' and kind(KEYS[1]) ~= 'none' then
  return 0
end
redis.call('DEL', KEYS[1])
if life > 0 then
  redis.call('HSET', KEYS[1], 'value', ARGV[2], 'until', now + life)
  redis.call('PEXPIRE', KEYS[1], life + SLACK)
end
return 0
