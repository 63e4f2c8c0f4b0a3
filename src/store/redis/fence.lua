-- How a script finds out whether the server may have lost writes: `scripts.rs` puts this before those that ask.
--
-- The fence is a hash: `epoch` names the data, and `server` is the server's replication id when all live
-- replicas had published what they know. A server that was emptied has no fence. One that was restarted,
-- or promoted from a copy, has another replication id: writes that it never received may be missing.
--
-- In a cluster each tag has a stamp of the same form, and `server` are the replication ids of all nodes:
-- keys that move to another node are as whole as before.

-- The replication id of this server; empty if the user may not read it.
local function replication_id()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end

-- The fence's fields; nil if there is none. Each call reads it, so it is read with one command.
local function fence(key, ...)
  local found = redis.pcall('HMGET', key, 'epoch', 'server', ...)
  if found[1] and found[2] then
    return found
  end
  return nil
end

-- Whether this server is one of that epoch, and has lost nothing since.
local function is_of(key, epoch)
  local found = fence(key)
  return found and found[1] == epoch and string.find(found[2], replication_id(), 1, true)
end
