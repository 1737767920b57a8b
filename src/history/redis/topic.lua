-- What scripts do with a topic.

-- How much later than needed the keys are forgotten at most, so that not every event has to postpone it.
local SLACK = 600000
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

-- Takes an event that is removed out of the sums.
local function strike(topic, entry)
  local bytes = bytes_of(entry)
  topic.count, topic.bytes = topic.count - 1, topic.bytes - bytes
  if topic.kept then
    tally(topic.kept, tonumber(entry[2][2]), past_time_at(entry), -1, -bytes)
  end
end

-- The last offset that the stream has ever had; none where there is no stream.
local function last_in_stream(topic)
  if redis.call('EXISTS', topic.stream) == 0 then
    return nil
  end
  local info = redis.call('XINFO', 'STREAM', topic.stream)
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
    local entries = redis.call('XRANGE', topic.stream, from, '+', 'COUNT', STRETCH)
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
  if topic.is_user and length > 0 then
    count(topic)
  else
    topic.count, topic.bytes, topic.changed, topic.stale = 0, 0, true, length > 0
  end
end

local function parents_of(topic)
  return topic.parents or redis.call('HGET', topic.state, 'p') or ''
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
  if topic.is_user or not topic.epoch or topic.seen_epoch == '' or topic.seen_epoch == topic.epoch then
    return
  end
  local last = shared(topic, topic.seen_epoch, topic.seen_newest)
  if last and last < topic.seen_newest and topic.lost <= last then
    topic.lost, topic.changed = last + 1, true
  end
end

-- The topic as it is, whose keys and arguments begin at `key` and `arg`; without an epoch where no numbering is known, or none
-- that can go on.
local function load(key, arg)
  local state, stream = KEYS[key], KEYS[key + 1]
  local f = redis.call('HMGET', state, 'e', 'g', 'n', 'l', 'c', 'b', 'x', 'd', 'i', 'm', 'w')
  local length = redis.call('XLEN', stream)
  local kind, seen_newest, seen_born = struct.unpack('>BI8I8', ARGV[arg + 1])
  local topic = {
    state = state, stream = stream, is_user = kind % 2 == USER, kept = kind >= COUNTED and KEYS[key + 2],
    -- Where the caller has seen the topic stand, if it has.
    seen_epoch = ARGV[arg], seen_newest = seen_newest, seen_born = seen_born,
    epoch = f[1], born = tonumber(f[2]) or 0, newest = tonumber(f[3]) or 0, lost = tonumber(f[4]) or 0,
    count = tonumber(f[5]) or 0, bytes = tonumber(f[6]) or 0, oldest = tonumber(f[7]) or 0,
    forgotten = tonumber(f[8]) or 0, saved = f, now = now_ms(), expired = 0, over = 0, stale = false,
    primary = f[9], most = tonumber(f[10]) or math.huge, most_bytes = tonumber(f[11]) or math.huge,
  }
  if length ~= topic.count then
    topic.over = math.max(topic.count - length, 0)
    topic.lost = topic.newest
    mend(topic, length)
    if (last_in_stream(topic) or 0) > topic.newest then
      topic.epoch = false
    end
  end
  heed(topic)
  return topic
end

-- Whether the numbering is behind what the caller has seen: somebody has restored older keys, or a replica that lagged was
-- promoted, and nothing was appended since.
local function is_behind(topic)
  if topic.epoch == topic.seen_epoch then
    return topic.newest < topic.seen_newest
  end
  return topic.born < topic.seen_born
end

-- Goes on from what is kept in a new epoch.
local function fork(topic)
  local parents = parents_of(topic) .. topic.epoch .. struct.pack('>I8', topic.newest)
  topic.primary, topic.parents = primary(), string.sub(parents, -PARENTS * PARENT)
  topic.epoch, topic.born = fresh, math.max(topic.now, topic.born + 1, topic.seen_born + 1)
end

-- Begins a numbering where there is none, or none that may go on. No offset is given out twice that anybody here can
-- know of, and one is left out: who names an offset without an epoch is not told that nothing came after it. Those of
-- users begin at the time, so that a confirmation that comes late for a former one confirms nothing.
local function begin(topic)
  if topic.epoch and not is_behind(topic) then
    return
  end
  topic.begun = true
  if topic.epoch and not topic.is_user then
    -- What was seen and is gone was lost; what is left is kept.
    fork(topic)
    topic.newest = math.max(topic.newest, topic.seen_newest) + 1
    topic.lost = topic.newest
    return
  end
  local in_stream = last_in_stream(topic)
  local last = math.max(topic.newest, topic.seen_newest, in_stream or 0)
  topic.epoch, topic.born = fresh, math.max(topic.now, topic.seen_born + 1)
  topic.newest = math.max(topic.is_user and topic.now or 0, last > 0 and last + 1 or 0)
  topic.lost = topic.newest
  topic.primary, topic.parents = primary(), ''
  if not topic.is_user then
    topic.count, topic.bytes, topic.stale = 0, 0, in_stream ~= nil
  end
end

-- Where another primary, or the same in another life, gave out the newest offset: what that one gave out beyond it is not
-- here. A channel goes on in a new epoch, in which those offsets are given out once more. A user's numbering leaps over
-- them, so that a confirmation of what is gone confirms nothing, and whoever has seen it goes on from there.
local function branch(topic)
  local here = primary()
  if not topic.epoch or topic.primary == here then
    return
  end
  if topic.is_user then
    topic.primary, topic.parents = here, ''
    topic.newest = math.max(topic.now, topic.newest + LEAP)
    topic.lost = topic.newest
    return
  end
  fork(topic)
  heed(topic)
end

local function drop_stale(topic)
  if topic.stale then
    redis.call('DEL', topic.stream)
    topic.stale = false
  end
end

-- Removes the oldest events for as long as `why` names a reason: 'expired' or 'over'.
local function trim(topic, why, expected)
  local from, step, last = '-', math.max(2, math.min(expected or 2, STRETCH)), nil
  local done = topic.count == 0
  while not done do
    local entries = redis.call('XRANGE', topic.stream, from, '+', 'COUNT', step)
    done = #entries == 0
    for _, entry in ipairs(entries) do
      local reason = why(entry)
      if not reason then
        topic.oldest, done = past_time_at(entry), true
        break
      end
      last = offset_of(entry)
      strike(topic, entry)
      topic[reason] = topic[reason] + 1
      from = '(' .. entry[1]
    end
    step = STRETCH
  end
  if last then
    topic.lost, topic.changed = math.max(topic.lost, last), true
    if topic.count == 0 then
      redis.call('DEL', topic.stream)
    else
      redis.call('XTRIM', topic.stream, 'MINID', '=', id(last + 1))
    end
  end
end

-- Removes what is past its time, and what is over the bounds once `slack` times as much is kept.
local function bound(topic, slack)
  local most, most_bytes = topic.most, topic.most_bytes
  local is_over = topic.count > most * slack or topic.bytes > most_bytes * slack
  if topic.count == 0 or not is_over and topic.oldest > topic.now then
    return
  end
  trim(topic, function(entry)
    if past_time_at(entry) <= topic.now then
      return 'expired'
    end
    return (topic.count > most or topic.bytes > most_bytes) and 'over'
  end, topic.count - most + 1)
end

local function age(topic)
  bound(topic, 1)
end

-- Events from `from` on, without those past their time. An event that is kept for a shorter time than those before it
-- takes them along, as what is kept is a run.
local function read(topic, from, count)
  while topic.count > 0 do
    local entries
    if count then
      entries = redis.call('XRANGE', topic.stream, from, '+', 'COUNT', count)
    else
      entries = redis.call('XRANGE', topic.stream, from, '+')
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
    topic.forgotten = moment + known + math.min(SLACK, known / 2)
    topic.postponed = true
  end
end

-- Writes what has changed.
local function save(topic)
  local saved = topic.saved
  local fields = {'HSET', topic.state, 'n', topic.newest, 'c', topic.count, 'b', topic.bytes}
  local function note(field, now, before)
    if now ~= before then
      fields[#fields + 1], fields[#fields + 2] = field, now
    end
  end
  note('e', topic.epoch, saved[1])
  note('g', topic.born, tonumber(saved[2]))
  note('l', topic.lost, tonumber(saved[4]))
  note('x', topic.oldest, tonumber(saved[7]))
  note('m', topic.most, tonumber(saved[10]) or math.huge)
  note('w', topic.most_bytes, tonumber(saved[11]) or math.huge)
  note('d', topic.forgotten, tonumber(saved[8]))
  if topic.parents then
    note('i', topic.primary, saved[9])
  end
  if topic.pass then
    fields[#fields + 1], fields[#fields + 2] = 'q', topic.pass
  end
  redis.call(unpack(fields))
  if topic.parents then
    if topic.parents == '' then
      redis.call('HDEL', topic.state, 'p')
    else
      redis.call('HSET', topic.state, 'p', topic.parents)
    end
  end
  if topic.postponed then
    redis.call('PEXPIREAT', topic.state, topic.forgotten)
    redis.call('PEXPIREAT', topic.stream, topic.forgotten)
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
  write_sums()
end

local function head(topic)
  return {topic.epoch, topic.born, topic.newest, topic.expired, topic.over}
end
