-- How leases are held: `scripts.rs` puts this before `lease.lua`, `reserve.lua` and `finish.lua`.
--
-- A lease's end is written beside its owner, so that one clock rules it as it rules all else, with how
-- long it lasts at most; the key's expiry only clears it away.

-- Whether another owner holds the lease. What cannot be read keeps nobody off: the worst is that two do
-- it once, and a lease that nobody holds would last for ever.
local function is_held_by_another(key, owner, life)
  if kind(key) ~= 'hash' then
    return false
  end
  local held = fields(key, LONGEST_TEXT, 'owner', 'until', 'life') or {}
  local stored = number(held[2])
  if not held[1] or held[1] == owner or not stored then
    return false
  end
  local till = believed(stored, number(held[3]) or life)
  if till ~= stored then
    redis.call('HSET', key, 'until', till)
    redis.call('PEXPIRE', key, till - now + SLACK)
  end
  return till > now
end

-- Whether this owner holds the lease.
local function is_held_by(key, owner)
  local held = kind(key) == 'hash' and fields(key, LONGEST_TEXT, 'owner')
  return held and held[1] == owner
end

-- Makes someone the owner for a while.
local function hold(key, owner, life)
  redis.call('DEL', key)
  redis.call('HSET', key, 'owner', owner, 'until', now_up + life, 'life', life)
  redis.call('PEXPIRE', key, life + SLACK)
end
