-- The start of every script: the time, and how to read numbers. `scripts.rs` puts this before each of
-- them. Nothing else may read the time, because the replicas' clocks differ.
--
-- Times are milliseconds since 1970: whole numbers far below 2^53, which Lua's numbers hold exactly.
-- ARGV[1] is empty; in a test that controls the time, it replaces the server's time.

-- `now` is rounded down and decides whether a time has passed; `now_up` is rounded up and is the time
-- that is written.
local now, now_up
if ARGV[1] == '' then
  local time = redis.call('TIME')
  local millis = tonumber(time[1]) * 1000
  now = millis + math.floor(tonumber(time[2]) / 1000)
  now_up = millis + math.ceil(tonumber(time[2]) / 1000)
else
  now = tonumber(ARGV[1])
  now_up = now
end

-- Keys outlive their contents by this, so that a clock change on the server cannot delete them early.
local SLACK = 60000

-- The number in a text; nil if these scripts cannot have written it.
local function number(text)
  local value = tonumber(text)
  if value and value > -2^53 and value < 2^53 then
    return value
  end
  return nil
end

-- The type of a key: 'hash', 'zset', 'none'.
local function kind(key)
  return redis.call('TYPE', key).ok
end

-- The longest text that these scripts write, in bytes, except for an order's state.
local LONGEST_TEXT = 65536

-- Fields of a hash; nil if one is longer than any that these scripts write. The lengths are checked
-- first: the server answers nobody while a script reads, or hashes, a hundred megabytes.
local function fields(key, longest, ...)
  for _, field in ipairs({...}) do
    if redis.call('HSTRLEN', key, field) > longest then
      return nil
    end
  end
  return redis.call('HMGET', key, ...)
end

-- How many milliseconds a clock was ahead when the values read were written, at least.
local ahead = 0

-- Smaller differences are not reported: clocks are corrected by less all the time.
local TOLERANCE = 1000

-- An end that was read, limited to what can be true: at most `longest` from now. A caller that cuts it
-- must write it back, or it would be as far away at each read.
local function believed(till, longest)
  local beyond = till - now_up - longest
  if beyond <= TOLERANCE then
    return till
  end
  ahead = math.max(ahead, beyond)
  return now_up + longest
end
