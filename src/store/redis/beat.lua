-- Renews a replica's membership, and finds out whether the server may have lost writes. If so, a new
-- epoch begins: limited calls wait until each replica that is alive has published what it knows.
--
-- KEYS: the fence. ARGV: the time; the replica's id; how long its membership lasts; how long its calls may be
-- in flight; how many calls for one order it has made in a day, at most; the epoch for which it has published
-- (empty: it has never made a call); an id for a new epoch; of its last answer: the epoch, `joins` and `now`
-- (0: none) and how long ago it was sent; whether the server is known to have held data before (1 or 0); what
-- the replica has found at the tags of a cluster (empty: no cluster; `?`: it has not looked; `whole`; else
-- for how long data may be lost, or `all`), the epoch in which it looked, and the epoch that it has stamped
-- at all tags; then for each other member that it knows of: its id, for how long it has been gone (0: it is
-- alive), and the same two numbers.
-- Answers {epoch, open, joins, seen, now, members, named, unknown, missing, left, task, whole}: `open` is 1
-- once the replica may make limited calls; the two numbers of this beat are known to all others once `seen`
-- has reached the `joins` of the answer; `members` has four values for each other member: its id, how long
-- its membership lasts (negative: for how long it has been over), and the same two numbers; `named` is 1 if
-- the server tells its replication id; `unknown` is for how long from now lost calls of lost members can have
-- arrived at their vendor (empty: none), and `missing` how many calls are taken off each order's day for
-- them; `left` is how long the replica's membership lasts; `task` is empty once the replica may publish, else
-- what it must do or wait for: `survey` the tags, `stamp` them, or `wait`; and `whole` is the last epoch with a
-- stamp at all tags.
--
-- In a cluster each node can lose its writes alone. So before an epoch begins a replica looks at all tags, and
-- it stamps them all before anybody publishes: what is lost later takes the stamp along, or has it on a node
-- that the stamp does not name.
--
-- A member that is gone may have made calls that the server has lost. `unknown` is the latest time at which
-- such a call can have arrived at its vendor, and `missing` is how many there can be for one order in a day:
-- `reserve.lua` counts them as made.

local id, life, flight, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local published, proposed, seen_epoch = ARGV[6], ARGV[7], ARGV[8]
local seen_joins, seen_at, seen_ago = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local was_used = ARGV[12] == '1' and not redis.pcall('HMGET', KEYS[1], 'unused')[1]
local survey, surveyed, has_stamped = ARGV[13], ARGV[14], ARGV[15]
local is_cluster = survey ~= ''
-- The members that only the caller knows of follow.
local OTHERS = 16

-- How long a member may still reserve calls at a server that others no longer use: until that server
-- refuses writes because it has lost its copies.
local PARTED = 15000
-- When a membership is written again.
local RENEWED = 1000
-- How exactly times of two beats compare.
local APART = 1000
-- How exactly times of two nodes compare.
local NODES_APART = 60000
-- How long a replica may take to stamp all tags.
local STAMPING = 2000
-- When members that are gone become one: each restart adds one.
local FOLD = 60000
-- No window is longer.
local LONGEST_WINDOW = 86400000
-- The members that are gone and have nothing to publish, as one.
local PAST = 'past'
-- The replicas that were there before a server was emptied, until one of them comes and names them all.
local ANYONE = 'anyone'

local stored = fence(KEYS[1], 'joins', 'beat', 'tail', 'members', 'stamper', 'whole', 'began') or {}

-- Each member is eight words: its id; when its membership ends; when its last call can have begun; how long
-- its calls may be in flight; how many it has made for one order in a day, at most; its number, in the order
-- in which they came; up to which number it knows the others; and the epoch for which it has published. Times
-- that a clock wrote which was ahead are cut.
local members = {}
local words = {}
for word in string.gmatch(stored[6] or '', '%S+') do
  words[#words + 1] = word
end
for i = 1, #words - 7, 8 do
  local till, last, theirs = number(words[i + 1]), number(words[i + 2]), number(words[i + 3])
  local made, joined, seen = number(words[i + 4]), number(words[i + 5]), number(words[i + 6])
  if till and last and theirs and made and joined and seen then
    members[words[i]] = {till = math.min(till, now_up + life), last = math.min(last, now_up + PARTED),
      flight = theirs, most = made, joined = joined, seen = seen, published = words[i + 7]}
  end
end

-- A member that must publish before calls are made, while it is alive.
local function suspect(till, last, theirs, made)
  return {till = till, last = last, flight = theirs, most = made, joined = 0, seen = 0, published = '-'}
end

-- Adds the members that only the caller knows of. `tail` is when the server's data was last known to be
-- whole, by the lost server's clock; 0 if nothing is left of it. A caller that has made calls knows all that
-- have.
local function merge(tail, has_begun)
  local whole_ago = tail > 0 and seen_at > 0 and seen_at - tail + seen_ago
  local names_all = published ~= ''
  for i = OTHERS, #ARGV, 4 do
    local other, ago, theirs = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    local made, stored = tonumber(ARGV[i + 3]), members[other]
    names_all = names_all and other ~= ANYONE
    if other == ANYONE and has_begun then
      -- If they are no longer in the record, one of them has come.
    elseif stored then
      stored.flight, stored.most = math.max(stored.flight, theirs), math.max(stored.most, made)
    elseif ago == 0 then
      members[other] = suspect(now_up + life, now_up + PARTED, theirs, made)
    elseif not whole_ago or ago <= whole_ago + APART then
      -- It has ended before the loss, but after the last write that the server has.
      members[other] = suspect(now - ago, now - ago, theirs, made)
    end
  end
  if names_all then
    members[ANYONE] = nil
  end
end

-- Begins a new epoch after `before`. The server has all calls of a member whose last one began before
-- `tail`, if it had them in the epoch before; the others publish theirs. `reference` is when the members were
-- last renewed.
local function begin(before, tail, reference)
  for _, member in pairs(members) do
    if tail > 0 and member.last + APART < tail and member.published == before then
      member.published = proposed
    elseif member.till + APART < reference then
      member.published = '-'
    else
      member.published, member.till, member.last = '-', now_up + life, now_up + PARTED
    end
    member.joined, member.seen = 0, 0
  end
  merge(tail, false)
end

local epoch, joins = stored[1], number(stored[3] or '0') or 0
local beat, tail = number(stored[4] or '0') or 0, number(stored[5] or '0') or 0
local server = replication_id()
local stamper, whole, began = stored[7] or '', stored[8] or '', number(stored[9] or '0') or 0
if is_cluster and epoch and has_stamped == epoch and stamper == id then
  whole = epoch
end

-- Why a new epoch begins: the time up to which the server's data is whole, and when the members were last
-- renewed (nil: nothing is lost); nil if none does.
local function loss()
  if not epoch then
    return 0, now
  elseif stored[2] ~= server then
    return beat, beat
  elseif published ~= '' and published ~= epoch and not members[id] then
    -- The epoch began without this replica, so it knows of calls that the server has lost.
    return 0, now
  elseif published ~= '' and published ~= epoch and members[id].till <= now then
    -- It was taken for gone, so the others may make calls in this epoch, though not all are published. The
    -- server has theirs.
    return now, nil
  elseif is_cluster and survey ~= '?' and survey ~= 'whole' and surveyed == epoch then
    return now, now
  elseif is_cluster and whole ~= epoch and began + STAMPING < now then
    return now, now
  end
  return nil
end

-- Up to when the data at all tags is whole.
local function whole_until()
  if survey == 'all' then
    return 0
  end
  local ago = tonumber(survey)
  return ago and math.max(now - ago - NODES_APART, 0) or now
end

local lost_from, reference = loss()
local changed = lost_from ~= nil
if changed and is_cluster then
  if survey == '?' or surveyed ~= (epoch or '') then
    if not epoch and not was_used then
      -- The next one finds the script there.
      redis.call('DEL', KEYS[1])
      redis.call('HSET', KEYS[1], 'unused', now_up)
    end
    return {epoch or '', 0, joins, joins, now_up, {}, server ~= '' and 1 or 0, '', 0, 0, 'survey', whole}
  end
  if whole_until() < lost_from then
    lost_from, reference = whole_until(), reference or now
  end
end
if changed then
  if not epoch and published == '' and #ARGV < OTHERS then
    members, tail = {}, 0
    if was_used then
      members[ANYONE] = suspect(now_up + life, now_up, 0, 0)
    end
  elseif reference then
    tail = lost_from
    begin(epoch, tail, reference)
  else
    merge(tail, true)
    for _, member in pairs(members) do
      member.published = member.published == epoch and proposed or member.published
    end
  end
  epoch, stamper, began = proposed, id, now_up
elseif published ~= epoch then
  merge(tail, true)
end
local task = ''
if is_cluster and whole ~= epoch then
  task = changed and 'stamp' or 'wait'
end

local own = members[id] or {till = 0, joined = 0, flight = 0, most = 0}
-- Whether there is something to write: each write goes to the disk and to the copies.
local is_news = changed or published ~= epoch or own.till < now_up + life - RENEWED
  or is_cluster and whole ~= stored[8]
if own.joined == 0 or flight > own.flight or most > own.most then
  -- Something that the others must know before it counts.
  joins = joins + 1
  is_news = true
end
if own.joined == 0 then
  own.joined = joins
end
local knows = seen_epoch == epoch and seen_joins or 0
is_news = is_news or own.seen ~= knows or own.published ~= published
if is_news then
  own.till, own.last = now_up + life, now_up + life
end
own.flight, own.most, own.seen = flight, most, knows
-- A replica without calls has nothing to publish.
own.published = published == '' and epoch or published
members[id] = own

local open, seen, unknown, missing, answer = task == '' and 1 or 0, joins, 0, 0, {}
for name, member in pairs(members) do
  local is_alive = member.till > now
  if member.published ~= epoch then
    if is_alive then
      open = 0
    elseif member.last + member.flight + LONGEST_WINDOW < now then
      members[name] = nil
    else
      if name == ANYONE then
        -- Nobody has told it: those that were there run like those that are there now.
        member.flight = math.max(member.flight, flight)
      end
      unknown = math.max(unknown, member.last + member.flight)
      missing = missing + member.most
    end
  end
  -- A replica makes calls once every other one knows of it: someone must remember it if the server does not.
  if name ~= id and is_alive then
    -- A member learns of those that came before it from its first answer.
    seen = math.min(seen, math.max(member.seen, member.joined))
  end
end

if seen < own.joined then
  open = 0
end

local past = members[PAST]
if past and past.published == epoch and past.last + past.flight + LONGEST_WINDOW < now then
  past = nil
end
for name, member in pairs(members) do
  local is_past = member.published == epoch and math.max(member.till, member.last) + FOLD < now
  -- The server has its calls, so it must not join those whose calls it has lost.
  if is_past and name ~= PAST and (not past or past.published == epoch) then
    is_news = true
    past = past or {till = 0, last = 0, flight = 0, most = 0, joined = 0, seen = 0, published = epoch}
    past.last, past.flight = math.max(past.last, member.last), math.max(past.flight, member.flight)
    past.most = past.most + member.most
    members[name] = nil
  end
end
members[PAST] = past

local kept = {}
for name, member in pairs(members) do
  kept[#kept + 1] = string.format('%s %.0f %.0f %.0f %.0f %.0f %.0f %s', name, member.till, member.last,
    member.flight, member.most, member.joined, member.seen, member.published)
  if name ~= id then
    local is_alive = name ~= ANYONE and member.till > now
    answer[#answer + 1] = name
    local left = is_alive and member.till or math.min(member.last, now - 1)
    answer[#answer + 1] = string.format('%.0f', left - now)
    answer[#answer + 1] = string.format('%.0f', member.flight)
    answer[#answer + 1] = string.format('%.0f', member.most)
  end
end
if not stored[1] then
  redis.call('DEL', KEYS[1])
end
if is_news then
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'server', server, 'joins', joins, 'beat', now_up,
    'tail', tail, 'stamper', stamper, 'whole', whole, 'began', began, 'members', table.concat(kept, ' '))
end
return {epoch, open, joins, seen, now_up, answer, server ~= '' and 1 or 0,
  unknown > 0 and string.format('%.0f', unknown - now) or '', missing, own.till - now_up, task, whole}
