-- Frees a call's slots: nothing was sent.
--
-- KEYS: the order's lease, then the windows. ARGV: the time, the lease's owner (empty: the lease stays) and life,
-- the call's mark.

if ARGV[2] ~= '' and is_held_by(KEYS[1], ARGV[2]) then
  redis.call('DEL', KEYS[1])
end
for i = 2, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[4])
end
return 0
