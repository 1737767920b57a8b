-- What every script on a topic begins with. KEYS: the topic's state, a hash, its stream, and what says which primary keeps
-- them (none where that is not known).
--
-- Fields of the state: e epoch (8 bytes), g birth of the numbering (ms since 1970; a later one has more), n newest offset,
-- l offset up to which events were removed other than by confirmation, c events kept, b their bytes, x moment at which the
-- oldest is past its time (never too late), d moment at which Redis forgets both keys, i the primary that gave out the
-- newest offset, p the numberings that this one goes on from: of each its epoch and the last offset that is in this one too,
-- both in 8 bytes.
-- Fields of an event, in this order: t when it came, x when it is past its time, n its bytes with those of o, r its record, and o whom it
-- leaves out, if anyone.
--
-- Offsets are Lua's numbers, which are exact up to 2^53.
local state, stream = KEYS[1], KEYS[2]
local is_user = ARGV[1] == 'user'
-- Where the caller has seen the topic stand, if it has.
local seen = {epoch = ARGV[2], newest = tonumber(ARGV[3]), born = tonumber(ARGV[4])}
-- The epoch of a numbering that begins here, and how long one is known of which nothing is kept.
local fresh, quiet = ARGV[5], tonumber(ARGV[6])

-- How much later than needed the keys are forgotten, so that not every event has to postpone it.
local SLACK = 60000
-- Events looked at together, beyond the few that are usually removed.
local STRETCH = 64
-- More events than a user gets while a replica lags.
local LEAP = 1048576
-- Numberings that are known to be gone on from, and the bytes of each.
local PARENTS, PARENT = 4, 16

local function id(offset)
  return string.format('%.0f-0', offset)
end

local function offset_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local function past_time_at(entry)
  return tonumber(entry[2][4])
end

local function bytes_of(entry)
  return tonumber(entry[2][6])
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The last offset that the stream has ever had; none where there is no stream.
local function last_in_stream()
  if redis.call('EXISTS', stream) == 0 then
    return nil
  end
  local info = redis.call('XINFO', 'STREAM', stream)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      return tonumber(string.match(info[at + 1], '^%d+'))
    end
  end
end

-- Counts what the stream holds.
local function count(topic)
  local from = '-'
  topic.count, topic.bytes, topic.oldest, topic.changed = 0, 0, 0, true
  while true do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', STRETCH)
    if #entries == 0 then
      return
    end
    for _, entry in ipairs(entries) do
      topic.count, topic.bytes = topic.count + 1, topic.bytes + bytes_of(entry)
    end
    from = '(' .. entries[#entries][1]
  end
end

-- Takes what the stream holds for what is kept, although it is not what the state says: Redis has evicted one of the two,
-- or somebody has changed them. A user's events are worth having even so. Of a channel's nothing may be missing in the
-- middle, so they are lost, and `stale` says that the stream holds what belongs to nothing any more.
local function mend(topic, length)
  if is_user and length > 0 then
    count(topic)
  else
    topic.count, topic.bytes, topic.changed, topic.stale = 0, 0, true, length > 0
  end
end

local function primary()
  return redis.call('GET', KEYS[3]) or ''
end

local function parents_of(topic)
  return topic.parents or redis.call('HGET', state, 'p') or ''
end

-- Up to where this numbering has what the one of `epoch` had up to `offset`; none where nothing is known of that one.
local function shared(topic, epoch, offset)
  if epoch == topic.epoch then
    return math.min(offset, topic.newest)
  end
  local parents = parents_of(topic)
  for at = 1, #parents, PARENT do
    if string.sub(parents, at, at + 7) == epoch then
      return math.min(offset, (struct.unpack('>I8', parents, at + 8)))
    end
  end
end

-- Notes what the caller has seen, and this numbering does not have although it goes on from that one: it is lost to
-- everybody who had not got so far.
local function heed(topic)
  if is_user or not topic.epoch or seen.epoch == '' or seen.epoch == topic.epoch then
    return
  end
  local last = shared(topic, seen.epoch, seen.newest)
  if last and last < seen.newest and topic.lost <= last then
    topic.lost, topic.changed = last + 1, true
  end
end

-- The topic as it is; without an epoch where no numbering is known, or none that can go on.
local function load()
  local f = redis.call('HMGET', state, 'e', 'g', 'n', 'l', 'c', 'b', 'x', 'd', 'i')
  local length = redis.call('XLEN', stream)
  local topic = {
    epoch = f[1], born = tonumber(f[2]) or 0, newest = tonumber(f[3]) or 0, lost = tonumber(f[4]) or 0,
    count = tonumber(f[5]) or 0, bytes = tonumber(f[6]) or 0, oldest = tonumber(f[7]) or 0,
    forgotten = tonumber(f[8]) or 0, now = now_ms(), expired = 0, over = 0, stale = false,
    primary = f[9],
  }
  if length ~= topic.count then
    topic.over = math.max(topic.count - length, 0)
    topic.lost = topic.newest
    mend(topic, length)
    if (last_in_stream() or 0) > topic.newest then
      topic.epoch = false
    end
  end
  heed(topic)
  return topic
end

-- Whether the numbering is behind what the caller has seen: a replica that lagged was promoted, or a backup restored.
local function is_behind(topic)
  if topic.epoch == seen.epoch then
    return topic.newest < seen.newest
  end
  return topic.born < seen.born
end

-- Begins a numbering where there is none, or none that may go on. No offset is given out twice that anybody here can
-- know of, and one is left out: who names an offset without an epoch is not told that nothing came after it. Those of
-- users begin at the time, so that a confirmation that comes late for a former one confirms nothing.
local function begin(topic)
  if topic.epoch and not is_behind(topic) then
    return
  end
  local in_stream = last_in_stream()
  local last = math.max(topic.newest, seen.newest, in_stream or 0)
  topic.epoch, topic.born = fresh, math.max(topic.now, seen.born + 1)
  topic.newest = math.max(is_user and topic.now or 0, last > 0 and last + 1 or 0)
  topic.lost, topic.begun = topic.newest, true
  topic.primary, topic.parents = primary(), ''
  if not is_user then
    topic.count, topic.bytes, topic.stale = 0, 0, in_stream ~= nil
  end
end

-- Where another primary, or the same in another life, gave out the newest offset: what that one gave out beyond it is not
-- here. A channel goes on in a new epoch, in which those offsets are given out once more. A user's numbering leaps over
-- them, so that a confirmation of what is gone confirms nothing, and whoever has seen it goes on from there.
local function branch(topic)
  local here = primary()
  if topic.primary == here then
    return
  end
  if is_user then
    topic.primary, topic.parents = here, ''
    topic.newest = math.max(topic.now, topic.newest + LEAP)
    topic.lost = topic.newest
    return
  end
  local parents = parents_of(topic) .. topic.epoch .. struct.pack('>I8', topic.newest)
  topic.primary, topic.parents = here, string.sub(parents, -PARENTS * PARENT)
  topic.epoch, topic.born = fresh, math.max(topic.now, topic.born + 1, seen.born + 1)
end

local function drop_stale(topic)
  if topic.stale then
    redis.call('DEL', stream)
    topic.stale = false
  end
end

-- Removes the oldest events for as long as `why` names a reason: 'expired' or 'over'.
local function trim(topic, why)
  local from, step, last = '-', 2, nil
  local done = topic.count == 0
  while not done do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', step)
    done = #entries == 0
    for _, entry in ipairs(entries) do
      local reason = why(entry)
      if not reason then
        topic.oldest, done = past_time_at(entry), true
        break
      end
      last = offset_of(entry)
      topic.count, topic.bytes = topic.count - 1, topic.bytes - bytes_of(entry)
      topic[reason] = topic[reason] + 1
      from = '(' .. entry[1]
    end
    step = STRETCH
  end
  if last then
    topic.lost, topic.changed = math.max(topic.lost, last), true
    if topic.count == 0 then
      redis.call('DEL', stream)
    else
      redis.call('XTRIM', stream, 'MINID', '=', id(last + 1))
    end
  end
end

local function age(topic)
  if topic.count > 0 and topic.oldest <= topic.now then
    trim(topic, function(entry) return past_time_at(entry) <= topic.now and 'expired' end)
  end
end

-- Events from `from` on, without those past their time. An event that is kept for a shorter time than those before it
-- takes them along, as what is kept is a run.
local function read(topic, from, count)
  while topic.count > 0 do
    local entries
    if count then
      entries = redis.call('XRANGE', stream, from, '+', 'COUNT', count)
    else
      entries = redis.call('XRANGE', stream, from, '+')
    end
    local past
    for at = #entries, 1, -1 do
      if past_time_at(entries[at]) <= topic.now then
        past = offset_of(entries[at])
        break
      end
    end
    if not past then
      return entries
    end
    trim(topic, function(entry) return offset_of(entry) <= past and 'expired' end)
  end
  return {}
end

-- Notes that the keys are needed until `moment` and for as long after it as a numbering is known, which is `unused` for one
-- that never had an event.
local function outlive(topic, moment, unused)
  local known = topic.newest == 0 and unused or quiet
  if moment + known > topic.forgotten then
    topic.forgotten = moment + known + SLACK
    topic.postponed = true
  end
end

local function save(topic)
  redis.call('HSET', state, 'e', topic.epoch, 'g', topic.born, 'n', topic.newest, 'l', topic.lost,
    'c', topic.count, 'b', topic.bytes, 'x', topic.oldest, 'd', topic.forgotten)
  if topic.parents then
    redis.call('HSET', state, 'i', topic.primary)
    if topic.parents == '' then
      redis.call('HDEL', state, 'p')
    else
      redis.call('HSET', state, 'p', topic.parents)
    end
  end
  if topic.postponed then
    redis.call('PEXPIREAT', state, topic.forgotten)
    redis.call('PEXPIREAT', stream, topic.forgotten)
  end
end

-- Saves what a reader has changed. Redis that is full may refuse that: whoever comes next finds the same. Only a
-- numbering that begins has to be saved, as its epoch is told.
local function save_read(topic)
  if topic.begun then
    save(topic)
  elseif topic.epoch and (topic.changed or topic.postponed) then
    pcall(save, topic)
  end
end

local function head(topic)
  return {topic.epoch, topic.born, topic.newest, topic.expired, topic.over}
end
