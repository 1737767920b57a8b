
-- Appends runs of events, each to one topic. ARGV[3]: what publishes. ARGV of each run, after the topic's: where its events are
-- published, if they are; in 8 bytes each, how many events and bytes are kept, and for how long; and how many events come. Then of
-- each event: its bytes, its record, whom it leaves out, and what is published.
--
-- Answers of each run where the topic stands after it, or why nothing of it was kept. quick.lua has answered some, by the epoch and the
-- newest offset alone.

local function append(key, arg)
  local topic = load(key, arg)
  local channel, ttl = ARGV[arg + 2], nil
  local most, most_bytes
  most, most_bytes, ttl = struct.unpack('>I8I8I8', ARGV[arg + 3])
  if most ~= topic.most or most_bytes ~= topic.most_bytes then
    -- What is over the former bounds goes by those.
    bound(topic, 1)
    topic.most, topic.most_bytes = most, most_bytes
  end
  branch(topic)
  begin(topic)
  local first, last = arg + RUN, arg + RUN + (ARGV[arg + 4] - 1) * EVENT
  local offset, past, before = topic.newest, topic.now + ttl, topic.bytes
  local now_text, past_text = string.format('%.0f', topic.now), string.format('%.0f', past)
  for at = first, last, EVENT do
    offset = offset + 1
    local digits = string.format('%.0f', offset)
    local size, omit = ARGV[at], ARGV[at + 2]
    if not topic.is_user then
      -- A channel's frame has the offset in it.
      size = size + #digits
    end
    -- The first thing written, since only before that does Redis refuse for want of memory; and nothing is published before.
    if omit == '' then
      redis.call('XADD', topic.stream, digits .. '-0', 't', now_text, 'x', past_text, 'n', size, 'r', ARGV[at + 1])
    else
      redis.call('XADD', topic.stream, digits .. '-0', 't', now_text, 'x', past_text, 'n', size, 'r', ARGV[at + 1],
        'o', omit)
    end
    topic.bytes = topic.bytes + size
  end
  if topic.kept then
    tally(topic.kept, topic.now, past, ARGV[arg + 4], topic.bytes - before)
  end
  if topic.stale then
    redis.call('XTRIM', topic.stream, 'MINID', '=', id(topic.newest + 1))
  end
  if topic.count == 0 then
    -- The stream is new, and Redis is to forget it as it forgets the state.
    topic.oldest, topic.postponed = past, true
  end
  topic.count, topic.newest = topic.count + offset - topic.newest, offset
  bound(topic, SLACK_KEPT)
  outlive(topic, past)
  topic.pass = struct.pack('>I8I8', math.max(topic.forgotten - ttl - quiet, 0), topic.oldest + math.floor(ttl / LATE))
    .. ARGV[arg + 3] .. primary()
  save(topic)
  if channel ~= '' then
    offset = topic.newest - (last - first) / EVENT
    for at = first, last, EVENT do
      -- Version 1 of the envelope, kind 2: a kept event with its epoch and offset.
      redis.call(publish, channel, '\1\2' .. topic.epoch .. struct.pack('>I8', offset) .. ARGV[at + 3])
      offset = offset + 1
    end
  end
  return head(topic)
end

local run, key, arg = 1, 2, 4
while KEYS[key] do
  if not answers[run] then
    local done, answer = pcall(append, key, arg)
    answers[run] = done and answer or {type(answer) == 'table' and answer.err or answer}
  end
  run, key, arg = run + 1, next_run(key, arg)
end
write_sums()
return answers
