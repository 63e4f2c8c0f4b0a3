-- Stores an order's state.
--
-- KEYS: the snapshot. ARGV: the time, then the arguments of `put`. Answers {found, state, ahead} as
-- `put` does.

return {put(KEYS[1], unpack(ARGV, 2))}
