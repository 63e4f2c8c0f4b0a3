-- Makes someone the one who does something, for a while: {1, ahead}, or {0, ahead} while another one is.
--
-- KEYS: the lease. ARGV: the time, the owner, how long. Its end is written beside the owner, so
-- that one clock rules it as it rules all else, with how long it lasts at most; the key's expiry only
-- clears it away. What cannot be read holds nobody off: the worst is that two do it once, and a lease
-- that nobody holds would last for ever.

local life = tonumber(ARGV[3])
if kind(KEYS[1]) == 'hash' then
  local held = fields(KEYS[1], LONGEST_TEXT, 'owner', 'until', 'life') or {}
  local stored = number(held[2])
  if held[1] and held[1] ~= ARGV[2] and stored then
    local till = believed(stored, number(held[3]) or life)
    if till ~= stored then
      redis.call('HSET', KEYS[1], 'until', till)
      redis.call('PEXPIRE', KEYS[1], till - now + SLACK)
    end
    if till > now then
      return {0, ahead}
    end
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'until', now_up + life, 'life', life)
redis.call('PEXPIRE', KEYS[1], life + SLACK)
return {1, ahead}
