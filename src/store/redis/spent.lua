-- Reads the used slots of a window: {spent, ahead}.
--
-- KEYS: the window. ARGV: the time, the longest period, the longest flight.

local slots, garbage = spent(KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return garbage or {slots, ahead}
