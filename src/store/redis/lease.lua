-- Gives an owner a lease for a while: {1, ahead}, or {0, ahead} while another owner holds it.
--
-- KEYS: the lease. ARGV: the time, the owner, the lease's life.

local owner, life = ARGV[2], tonumber(ARGV[3])
if is_held_by_another(KEYS[1], owner, life) then
  return {0, ahead}
end
hold(KEYS[1], owner, life)
return {1, ahead}
