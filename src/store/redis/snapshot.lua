-- How an order's state is read and put: `scripts.rs` puts this before the scripts that need it.
--
-- A hash: `state`, the caller's bytes; `observed`, digits of one length whose text order is the time
-- order, because Lua's numbers could not hold the time; `terminal`, 1 or 0; and `sum`, which
-- distinguishes a state written by `put` from garbage.

-- The longest state that is written, in bytes: four times what a vendor may answer.
local LONGEST_STATE = 1048576

local function sum(observed, terminal, state)
  return redis.sha1hex(observed .. ' ' .. terminal .. ' ' .. state)
end

-- The stored state: 0 if there is none, 2 if it is garbage, else 1, its time, whether it is terminal,
-- and its bytes.
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

-- How many seconds from now a time is that has the form of `observed`: seconds since 2^63 before 1970,
-- in twenty digits, split into two halves that Lua's numbers can hold.
local function away(time)
  local high, low = tonumber(string.sub(time, 1, 10)), tonumber(string.sub(time, 11, 20))
  return (high - 922337203) * 1e10 + low - 6854775808 - math.floor(now / 1000)
end

-- Tells the other replicas that a state is stored: when it was observed, and the order's own text. It may
-- fail, because the user may lack the right; the state is stored all the same.
local function publish(key, observed)
  redis.pcall('PUBLISH', 'order-query:news', observed .. ' ' .. (string.match(key, ':order:(.*)') or ''))
end

-- Stores an order's state, unless the stored state was observed later or is terminal. A stored state
-- that seems to be observed in the future comes from a clock that was ahead; it must not block newer
-- states until that time.
--
-- Arguments: when the state was observed, whether it is terminal, its bytes, how long to store it if it
-- is not terminal, and how far clocks may differ. Answers what was found, as `snapshot` reports it; its
-- bytes if they stay; and how far the clock was ahead that observed a replaced state.
local function put(key, observed, terminal, state, life, differ)
  local found, known_at, known_terminal, known = snapshot(key)
  local behind = 0
  if found == 1 and not known_terminal and away(known_at) * 1000 > tonumber(differ) then
    behind = math.min(away(known_at) * 1000, 2^53)
  end
  if found == 1 and (known_terminal or observed < known_at and behind == 0) then
    return found, known, 0
  end
  -- Start with a new key: it has no expiry and no old fields.
  redis.call('DEL', key)
  redis.call('HSET', key, 'observed', observed, 'terminal', terminal, 'state', state,
    'sum', sum(observed, terminal, state))
  if terminal ~= '1' then
    redis.call('PEXPIRE', key, life)
  end
  publish(key, observed)
  return found, false, behind
end
