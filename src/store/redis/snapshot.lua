-- How an order's state is read and put: `scripts.rs` puts this before the scripts that do.
--
-- A hash: `state` as the caller's bytes; `observed`, digits of one length, so that texts compare
-- as the times do, which Lua's numbers could not hold; `terminal`, 1 or 0; and `sum`, which tells
-- what was written by `put` from garbage.

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

-- In how many seconds a time is that is written as `observed` is: seconds from 2^63 before
-- 1970 on, in twenty digits, which are two halves that Lua's numbers can hold.
local function away(time)
  local high, low = tonumber(string.sub(time, 1, 10)), tonumber(string.sub(time, 11, 20))
  return (high - 922337203) * 1e10 + low - 6854775808 - math.floor(now / 1000)
end

-- Remembers an order's state, unless what is remembered was observed later or is terminal. What seems
-- to be observed in the future is of a clock that was ahead, and must not keep the truth out until then.
--
-- Takes when the state was observed, whether it is terminal, its bytes, how long to keep it if it is not,
-- and how far clocks may differ. Answers what was found as `snapshot` says it, its bytes where they stay,
-- and by how much the clock was ahead that observed what does not stay.
local function put(key, observed, terminal, state, life, differ)
  local found, known_at, known_terminal, known = snapshot(key)
  local behind = 0
  if found == 1 and not known_terminal and away(known_at) * 1000 > tonumber(differ) then
    behind = math.min(away(known_at) * 1000, 2^53)
  end
  if found == 1 and (known_terminal or observed < known_at and behind == 0) then
    return found, known, 0
  end
  -- A new key: it has no expiry, and nothing of what was there.
  redis.call('DEL', key)
  redis.call('HSET', key, 'observed', observed, 'terminal', terminal, 'state', state,
    'sum', sum(observed, terminal, state))
  if terminal ~= '1' then
    redis.call('PEXPIRE', key, life)
  end
  return found, false, behind
end
