
-- Appends what it can without a look at more than a few fields of a topic's state; append.lua does the rest. KEYS and ARGV are
-- as there.
--
-- A pass (q) says that the bounds, the primary and the keys' expiry are as a run has them, and when the oldest event has to be
-- removed, and the expiry postponed. Until then, all that an append may change is the newest offset, the number of events and
-- their bytes; and the oldest events of a channel, once there are too many.
local publish = ARGV[3]
-- Arguments of a run and of an event.
local RUN, EVENT = 5, 4
-- Part of its time for which an event may stay that is past it, so that not every event costs a look at the oldest.
local LATE = 8
-- Events of a run at most that has the oldest removed here.
local STEP = 16
local format = string.format

-- Of each text of bounds: how much is kept until it is trimmed, and when an event that comes now is past its time.
local bounds = {}

local function bounds_of(packed)
  local known = bounds[packed]
  if not known then
    local most, most_bytes, ttl = struct.unpack('>I8I8I8', packed)
    local now = now_ms()
    known = {
      most = most, most_bytes = most_bytes, past = now + ttl, now = now, late = math.floor(ttl / LATE),
      now_text = format('%.0f', now), past_text = format('%.0f', now + ttl), pass = packed .. primary(),
      now_packed = struct.pack('>I8', now),
    }
    bounds[packed] = known
  end
  return known
end

-- Removes the oldest events of a channel that are over its bounds, of `count` and `bytes`. Returns what is left, the fields of the
-- state that change with it, and when the oldest is to be removed.
local function trim_quick(stream, kept, keep, count, bytes)
  local last, oldest
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', math.max(count - keep.most + 1, 2))) do
    local fields = entry[2]
    oldest = tonumber(fields[4])
    if count <= keep.most and oldest > keep.now then
      break
    end
    last, count, bytes = entry[1], count - 1, bytes - fields[6]
    if kept then
      tally(kept, tonumber(fields[2]), oldest, -1, -fields[6])
    end
  end
  if last then
    last = tonumber(string.match(last, '^%d+'))
    redis.call('XTRIM', stream, 'MINID', '=', format('%.0f-0', last + 1))
  end
  return count, bytes, last, oldest
end

-- What a topic is answered that has a run now; none where it takes more than that.
local function quick(key, arg)
  local state, stream, events = KEYS[key], KEYS[key + 1], tonumber(ARGV[arg + 4])
  local f = redis.call('HMGET', state, 'e', 'n', 'c', 'b', 'q')
  local epoch, count, pass, keep = f[1], f[3], f[5], bounds_of(ARGV[arg + 3])
  local is_good = pass and string.sub(pass, 17) == keep.pass and string.sub(pass, 1, 8) > keep.now_packed
  if not is_good or ARGV[arg] ~= epoch or count == '0' then
    return nil
  end
  local kind, seen = struct.unpack('>BI8', ARGV[arg + 1])
  local offset, before = tonumber(f[2]), tonumber(f[4])
  -- A channel's frame has the offset in it.
  local digits, bytes, first, last = format('%.0f', offset + 1), before, arg + RUN, arg + RUN + (events - 1) * EVENT
  local more = kind % 2 == USER and 0 or #digits
  for at = first, last, EVENT do
    bytes = bytes + ARGV[at] + more
  end
  local is_over = count + events > keep.most * SLACK_KEPT or string.sub(pass, 9, 16) <= keep.now_packed
  -- What a user loses is counted, and so left to append.lua; and so is much at once.
  if offset < seen or bytes > keep.most_bytes * SLACK_KEPT or is_over and (kind % 2 == USER or events > STEP) then
    return nil
  end
  local now_text, past_text, born = keep.now_text, keep.past_text, offset
  bytes = before
  for at = first, last, EVENT do
    offset = offset + 1
    if at > first then
      digits = format('%.0f', offset)
    end
    local size, omit = ARGV[at], ARGV[at + 2]
    if kind % 2 ~= USER then
      size = size + #digits
    end
    bytes = bytes + size
    local added
    if omit ~= '' then
      added = redis.pcall('XADD', stream, 'NOMKSTREAM', digits .. '-0', 't', now_text, 'x', past_text, 'n', size, 'r',
        ARGV[at + 1], 'o', omit)
    else
      added = redis.pcall('XADD', stream, 'NOMKSTREAM', digits .. '-0', 't', now_text, 'x', past_text, 'n', size, 'r',
        ARGV[at + 1])
    end
    -- Redis has evicted the stream, or has no memory. Nothing was written then, since it refuses only the first.
    if type(added) ~= 'string' then
      return nil
    end
  end
  local kept = kind >= COUNTED and KEYS[key + 2]
  if kept then
    tally(kept, keep.now, keep.past, events, bytes - before)
  end
  count = count + events
  if is_over then
    local lost, oldest
    count, bytes, lost, oldest = trim_quick(stream, kept, keep, count, bytes)
    redis.call('HSET', state, 'n', digits, 'c', format('%.0f', count), 'b', format('%.0f', bytes),
      'x', format('%.0f', oldest), 'q', string.sub(pass, 1, 8) .. struct.pack('>I8', oldest + keep.late) .. keep.pass)
    if lost then
      redis.call('HSET', state, 'l', format('%.0f', lost))
    end
  else
    redis.call('HSET', state, 'n', digits, 'c', format('%.0f', count), 'b', format('%.0f', bytes))
  end
  local channel = ARGV[arg + 2]
  if channel ~= '' then
    offset = born
    for at = first, last, EVENT do
      offset = offset + 1
      -- Version 1 of the envelope, kind 2: a kept event with its epoch and offset.
      redis.call(publish, channel, '\1\2' .. epoch .. struct.pack('>I8', offset) .. ARGV[at + 3])
    end
  end
  return {epoch, digits}
end

-- The keys and arguments of the run after one.
local function next_run(key, arg)
  return key + (string.byte(ARGV[arg + 1]) >= COUNTED and 3 or 2), arg + RUN + ARGV[arg + 4] * EVENT
end

-- What each run is answered, and the topics of which a run is left: later ones of theirs come after it.
local answers, left = {}, {}

do
  local run, key, arg = 1, 2, 4
  while KEYS[key] do
    local done, answer = true, nil
    if not left[KEYS[key]] then
      done, answer = pcall(quick, key, arg)
    end
    if not done then
      answer = {type(answer) == 'table' and answer.err or answer}
    end
    answers[run] = answer or false
    if not answer then
      left[KEYS[key]] = true
    end
    run, key, arg = run + 1, next_run(key, arg)
  end
end

if not next(left) then
  write_sums()
  return answers
end
