-- How an order's state is read: `scripts.rs` puts this before `keep.lua` and `recall.lua`.
--
-- A hash: `state` as the caller's bytes; `observed`, digits of one length, so that texts compare
-- as the times do, which Lua's numbers could not hold; `terminal`, 1 or 0; and `sum`, which tells
-- what was written by `keep` from garbage.

-- The longest state that is written, in bytes: four times what a vendor may answer.
local LONGEST_STATE = 1048576

local function sum(observed, terminal, state)
  return redis.sha1hex(observed .. ' ' .. terminal .. ' ' .. state)
end

-- What is kept: 0 where nothing is, 2 where it is garbage, else 1, its time, whether it is
-- terminal, and its bytes.
local function snapshot(key)
  local holds = kind(key)
  if holds == 'none' then
    return 0
  elseif holds ~= 'hash' then
    return 2
  end
  local kept = fields(key, LONGEST_STATE, 'observed', 'terminal', 'state', 'sum')
  if not kept or not (kept[1] and kept[2] and kept[3] and kept[4]) then
    return 2
  end
  if sum(kept[1], kept[2], kept[3]) ~= kept[4] then
    return 2
  end
  return 1, kept[1], kept[2] == '1', kept[3]
end
