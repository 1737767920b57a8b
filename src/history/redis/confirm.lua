
-- ARGV[7]: the offset. Answers which events leave somebody out: whether they are the reader's is not decided here.
local last = ARGV[7] .. '-0'
local topic = load()
-- Of a numbering that went back, the offset may name what nobody has seen.
if not topic.epoch or is_behind(topic) then
  return {}
end
drop_stale(topic)
age(topic)
local withheld, from = {}, '-'
while topic.count > 0 do
  local entries = redis.call('XRANGE', stream, from, last, 'COUNT', STRETCH)
  if #entries == 0 then
    break
  end
  local ids = {}
  for _, entry in ipairs(entries) do
    local omit = entry[2][10]
    if omit then
      withheld[#withheld + 1] = {entry[1], bytes_of(entry), omit}
    else
      ids[#ids + 1] = entry[1]
      topic.count, topic.bytes = topic.count - 1, topic.bytes - bytes_of(entry)
    end
  end
  if #ids > 0 then
    redis.call('XDEL', stream, unpack(ids))
    topic.changed = true
  end
  from = '(' .. entries[#entries][1]
end
if topic.changed and topic.count == 0 then
  redis.call('DEL', stream)
end
save_read(topic)
return {head(topic), withheld}
