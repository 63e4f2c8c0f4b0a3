-- Reads what is known of an order, and what is spent of its own limit.
--
-- KEYS: the snapshot, and the order's window where it has one. ARGV: the time, the longest period, the
-- longest flight. Answers {found, state, spent, ahead}: what was found as `snapshot` says it, and what
-- is spent as `spent` says it.

local slots = {}
if KEYS[2] then
  local garbage
  slots, garbage = spent(KEYS[2], tonumber(ARGV[2]), tonumber(ARGV[3]))
  if garbage then
    return garbage
  end
end
local found, _, _, state = snapshot(KEYS[1])
return {found, state or false, slots, ahead}
