-- How leases are held: `scripts.rs` puts this before `lease.lua`, `reserve.lua` and `finish.lua`.
--
-- A lease stores its owner, its end and its longest life. The end is stored as a field, so that the
-- same clock governs it as everything else; the key's expiry only removes the key.

-- Whether another owner holds the lease. An unreadable lease blocks nobody: at worst two owners do the
-- work once, while a lease that nobody holds would last for ever.
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

-- Gives an owner the lease for a while.
local function hold(key, owner, life)
  redis.call('DEL', key)
  redis.call('HSET', key, 'owner', owner, 'until', now_up + life, 'life', life)
  redis.call('PEXPIRE', key, life + SLACK)
end
