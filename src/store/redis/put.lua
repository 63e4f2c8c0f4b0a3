-- Remembers an order's state.
--
-- KEYS: the snapshot. ARGV: the time, then what `put` takes. Answers {found, state, ahead} as `put` does.

return {put(KEYS[1], unpack(ARGV, 2))}
