-- Takes a slot in each window of a call, or in none, unless the account is closed.
--
-- KEYS: the account's closure, then the windows (sorted sets: call id, time at which its slot is
-- free). ARGV: the time, the call's id, then for each window its limit and how long a slot lasts.
-- Answers {0}: taken; {1, index, wait}: that window is full; {2, wait}: closed; or an error, and
-- then nothing was taken: all that can fail is read before the first slot is written.
--
-- A call that has its slots already is not counted against itself and was let through before, so
-- running this twice is the same as running it once.

local id = ARGV[2]
local GARBAGE = redis.error_reply('GARBAGE what is spent cannot be read')

-- How long until one of the slots that others hold is free, where they fill the window.
local function full_for(key, limit, others)
  local first = others - limit
  local skipped = 0
  local slots = redis.call('ZRANGE', key, 0, first + 1, 'WITHSCORES')
  for i = 1, #slots, 2 do
    if slots[i] ~= id then
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
local repeated = #KEYS > 1
for i = 2, #KEYS do
  local key, limit = KEYS[i], tonumber(ARGV[2 * i - 1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local slots = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  last[i] = number(slots[2] or '0')
  if not last[i] then
    return GARBAGE
  end
  local others = redis.call('ZCARD', key)
  if redis.call('ZSCORE', key, id) then
    others = others - 1
  else
    repeated = false
  end
  if others > 0 and others >= limit then
    local wait = full_for(key, limit, others)
    -- Of several full windows the one that is full for longest: before, no call can be made.
    if not full or wait >= full[3] then
      full = {1, i - 2, wait}
    end
  end
end
if full then
  return full
end

-- Last, because it lets a probe through: whoever is let through must also call.
if kind(KEYS[1]) ~= 'none' then
  local closure = redis.call('HMGET', KEYS[1], 'until', 'every', 'probe')
  local till, every = number(closure[1]), number(closure[2])
  if not till or not every then
    return GARBAGE
  end
  if closure[3] ~= id and not repeated then
    if till > now then
      return {2, till - now}
    end
    if every > 0 then
      redis.call('HSET', KEYS[1], 'until', now_up + every, 'probe', id)
    else
      redis.call('DEL', KEYS[1])
    end
  end
end

for i = 2, #KEYS do
  local free = now_up + tonumber(ARGV[2 * i])
  redis.call('ZADD', KEYS[i], 'GT', free, id)
  redis.call('PEXPIRE', KEYS[i], math.max(last[i], free) - now + SLACK)
end
return {0}
