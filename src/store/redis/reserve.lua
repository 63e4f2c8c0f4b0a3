-- Reserves a call: its lease and a slot in each of its windows, or nothing, unless the account is
-- paused.
--
-- KEYS: the account's pause, the order's lease, its snapshot, then the windows (see `slots.lua`). ARGV:
-- the time, the lease's owner (empty: none) and life, the call's mark, the longest pause, the longest
-- flight, when the state was observed that the owner knows, then for each window its maximum number of
-- calls, its period, and how long a slot lasts. Answers {what, index, wait, ahead}: 0: reserved; 1: the
-- window with that index is full for that long; 2: paused for that long; 3: another owner holds the
-- lease, or has brought a later state. An error means that nothing was reserved: every step
-- that can fail comes before the first slot is written.
--
-- A call that already holds its slots does not count against itself and was admitted before, so running
-- this twice has the same effect as running it once.

local owner, lease_life, mark = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local longest_pause, longest_flight, seen = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local GARBAGE = redis.error_reply('GARBAGE what is spent cannot be read')

if owner ~= '' then
  local found, known_at = snapshot(KEYS[3])
  if found == 1 and known_at > seen or is_held_by_another(KEYS[2], owner, lease_life) then
    return {3, 0, 0, ahead}
  end
end

-- The maximum number of calls, the period and the length of a slot of the window in KEYS[i].
local function terms(i)
  local first = 3 * i - 4
  return tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
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
local repeated = #KEYS > 3
for i = 4, #KEYS do
  local key, limit, period, life = KEYS[i], terms(i)
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
      full = {1, i - 4, wait}
    end
  end
end
if full then
  full[4] = ahead
  return full
end

-- Last, because this admits a probe, and an admitted probe must be sent.
if kind(KEYS[1]) ~= 'none' then
  local pause = fields(KEYS[1], LONGEST_TEXT, 'until', 'every', 'probe') or {}
  local till, every = number(pause[1]), number(pause[2])
  if not till or not every then
    return GARBAGE
  end
  local stored = till
  till = believed(stored, every > 0 and every or longest_pause)
  if till ~= stored then
    redis.call('HSET', KEYS[1], 'until', till)
    if every == 0 then
      redis.call('PEXPIRE', KEYS[1], till - now + SLACK)
    end
  end
  if pause[3] ~= mark and not repeated then
    if till > now then
      return {2, 0, till - now, ahead}
    end
    if every > 0 then
      redis.call('HSET', KEYS[1], 'until', now_up + every, 'probe', mark)
    else
      redis.call('DEL', KEYS[1])
    end
  end
end

if owner ~= '' then
  hold(KEYS[2], owner, lease_life)
end
for i = 4, #KEYS do
  local _, _, life = terms(i)
  local free = now_up + life
  redis.call('ZADD', KEYS[i], 'GT', free, mark)
  redis.call('PEXPIRE', KEYS[i], math.max(last[i], free) - now + SLACK)
end
return {0, 0, 0, ahead}
