-- What every script begins with: the time, and how to read numbers. `scripts.rs` puts this before
-- each of them; nothing else may tell the time, because the replicas' clocks differ.
--
-- Times are milliseconds since 1970, whole numbers far below 2^53, where Lua's are exact. ARGV[1]
-- is empty; in a test that moves the time it stands in the place of the server's.

-- `now` is rounded down and tells what is over; `now_up` is rounded up and is what is written.
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

-- Keys outlive what they hold by this, so that a server's clock that is set cannot drop it early.
local SLACK = 60000

-- The number in a text; nil where it is no number that these scripts can have written.
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

-- The longest text that these scripts write, in bytes, but for an order's state.
local LONGEST_TEXT = 65536

-- Fields of a hash; nil where one is longer than any that these scripts write. They are asked for their
-- lengths first: nobody is answered while a script reads, or sums up, a hundred megabytes.
local function fields(key, longest, ...)
  for _, field in ipairs({...}) do
    if redis.call('HSTRLEN', key, field) > longest then
      return nil
    end
  end
  return redis.call('HMGET', key, ...)
end

-- By how many milliseconds a clock was ahead when what was read was written, at least.
local ahead = 0

-- What is not worth a word: a clock is corrected by less all the time.
local TOLERANCE = 1000

-- An end that was read, as far as it can be true: at most `longest` from now. Whoever cuts it must
-- write it, or it would be as far away each time that it is read.
local function believed(till, longest)
  local beyond = till - now_up - longest
  if beyond <= TOLERANCE then
    return till
  end
  ahead = math.max(ahead, beyond)
  return now_up + longest
end
