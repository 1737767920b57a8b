
local most, most_bytes, ttl = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local size, record, omit = tonumber(ARGV[10]), ARGV[11], ARGV[12]
local publish, channel, tail = ARGV[13], ARGV[14], ARGV[15]

local topic = load()
begin(topic)
branch(topic)
local offset = topic.newest + 1
local past = topic.now + ttl
if not is_user then
  -- A channel's frame has the offset in it.
  size = size + #string.format('%.0f', offset)
end
local event = {'t', topic.now, 'x', past, 'n', size, 'r', record}
if omit ~= '' then
  event[9], event[10] = 'o', omit
end
-- The first thing written, since only before that does Redis refuse for want of memory; and nothing is published before.
redis.call('XADD', stream, id(offset), unpack(event))
if topic.stale then
  redis.call('XTRIM', stream, 'MINID', '=', id(offset))
end
if topic.count == 0 then
  -- The stream is new, and Redis is to forget it as it forgets the state.
  topic.oldest, topic.postponed = past, true
end
topic.newest, topic.count, topic.bytes = offset, topic.count + 1, topic.bytes + size
if topic.oldest <= topic.now or topic.count > most or topic.bytes > most_bytes then
  trim(topic, function(entry)
    if past_time_at(entry) <= topic.now then
      return 'expired'
    end
    return (topic.count > most or topic.bytes > most_bytes) and 'over'
  end)
end
outlive(topic, past)
save(topic)
if publish ~= '' then
  -- Version 1 of the envelope, kind 2: a kept event with its epoch and offset.
  redis.call(publish, channel, '\1\2' .. topic.epoch .. struct.pack('>I8', offset) .. tail)
end
return {head(topic)}
