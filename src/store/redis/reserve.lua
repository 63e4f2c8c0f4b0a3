-- Reserves a call: its lease and a slot in each of its windows, or nothing, unless the account is
-- paused.
--
-- KEYS: the fence (in a cluster its stamp at the tag of these keys), the account's pause, the order's lease, its
-- snapshot, then the windows (see `slots.lua`). ARGV: the time, the lease's owner (empty: none) and life, the
-- call's mark, the longest pause, the longest flight, when the state was observed that the owner knows, the epoch
-- that the replica knows (empty: the call is not limited), for how long calls that the server has lost can have
-- arrived at the vendor (empty: none), how many of them there can be for one order, then for each window its
-- maximum number of calls, its period, and how long a slot lasts. Answers {what, index, wait, ahead}: 0: reserved; 1: the window with that index is
-- full for that long; 2: paused for that long; 3: another owner holds the lease, or has brought a later
-- state; 4: the server may have lost calls; 5: calls that it has lost may count in the window with that
-- index for that long. An error means that nothing was reserved: every step that can fail comes before the
-- first slot is written.
--
-- A call that already holds its slots does not count against itself and was admitted before, so running
-- this twice has the same effect as running it once.

local owner, lease_life, mark = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local longest_pause, longest_flight, seen = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local epoch = ARGV[8]
local GARBAGE = redis.error_reply('GARBAGE what is spent cannot be read')

-- The maximum number of calls, the period and the length of a slot of the window in KEYS[i].
local function terms(i)
  local first = 3 * i - 4
  return tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
end

-- The latest time at which a call can have arrived at the vendor that the server has lost, and how many such
-- calls there can be for one order.
local unknown, missing = tonumber(ARGV[9]), tonumber(ARGV[10])
unknown = unknown and now + unknown or 0
local SHORT = 3600000

-- The maximum number of calls that the server must know in a window; not above 0 if none.
local function allowed(limit, period)
  if unknown + period <= now then
    return limit
  end
  -- In a short window the lost calls can be all that the limit allows, for any orders.
  return period > SHORT and limit - missing or 0
end

if epoch ~= '' and not is_of(KEYS[1], epoch) then
  return {4, 0, 0, ahead}
end
if unknown > 0 then
  local closed = nil
  for i = 5, #KEYS do
    local limit, period = terms(i)
    local wait = unknown + period - now
    if limit > 0 and allowed(limit, period) <= 0 and (not closed or wait > closed[3]) then
      closed = {5, i - 5, wait, ahead}
    end
  end
  if closed then
    return closed
  end
end

if owner ~= '' then
  local found, known_at = snapshot(KEYS[4])
  if found == 1 and known_at > seen or is_held_by_another(KEYS[3], owner, lease_life) then
    return {3, 0, 0, ahead}
  end
end

-- How long until a slot of other calls becomes free, if they fill the window.
local function full_for(key, limit, others)
  local first = others - limit
  local skipped = 0
  local slots = redis.call('ZRANGE', key, 0, first + 1, 'WITHSCORES')
  for i = 1, #slots, 2 do
    if slots[i] ~= mark then
      if skipped == first then
        return number(slots[i + 1]) - now
      end
      skipped = skipped + 1
    end
  end
  return 0
end

local last = {}
local full = nil
local repeated = #KEYS > 4
for i = 5, #KEYS do
  local key, limit, period, life = KEYS[i], terms(i)
  limit = unknown > 0 and allowed(limit, period) or limit
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local slots = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  last[i] = number(slots[2] or '0')
  if not last[i] then
    return GARBAGE
  end
  if last[i] - now_up - life > TOLERANCE then
    last[i] = cut(key, period, longest_flight)
  end
  local others = redis.call('ZCARD', key)
  if redis.call('ZSCORE', key, mark) then
    others = others - 1
  else
    repeated = false
  end
  if others > 0 and others >= limit then
    local wait = full_for(key, limit, others)
    -- Of several full windows, report the one that stays full longest: no call can be made before that.
    if not full or wait >= full[3] then
      full = {1, i - 5, wait}
    end
  end
end
if full then
  full[4] = ahead
  return full
end

-- Last, because this admits a probe, and an admitted probe must be sent.
if kind(KEYS[2]) ~= 'none' then
  local pause = fields(KEYS[2], LONGEST_TEXT, 'until', 'every', 'probe') or {}
  local till, every = number(pause[1]), number(pause[2])
  if not till or not every then
    return GARBAGE
  end
  local stored = till
  till = believed(stored, every > 0 and every or longest_pause)
  if till ~= stored then
    redis.call('HSET', KEYS[2], 'until', till)
    if every == 0 then
      redis.call('PEXPIRE', KEYS[2], till - now + SLACK)
    end
  end
  if pause[3] ~= mark and not repeated then
    if till > now then
      return {2, 0, till - now, ahead}
    end
    if every > 0 then
      redis.call('HSET', KEYS[2], 'until', now_up + every, 'probe', mark)
    else
      redis.call('DEL', KEYS[2])
    end
  end
end

if owner ~= '' then
  hold(KEYS[3], owner, lease_life)
end
for i = 5, #KEYS do
  local _, _, life = terms(i)
  local free = now_up + life
  redis.call('ZADD', KEYS[i], 'GT', free, mark)
  redis.call('PEXPIRE', KEYS[i], math.max(last[i], free) - now + SLACK)
end
return {0, 0, 0, ahead}
