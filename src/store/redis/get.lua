-- Reads an order's snapshot and the used slots of its own limit.
--
-- KEYS: the snapshot, and the order's window if it has one. ARGV: the time, the longest period, the
-- longest flight. Answers {found, state, spent, ahead}: `found` as `snapshot` returns it, and `spent`
-- as `spent` returns it.

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
