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
