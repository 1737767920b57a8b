
-- ARGV[5]: the offset. Answers which events leave somebody out: whether they are the reader's is not decided here.
local last = ARGV[5] .. '-0'
local topic = load(2, 3)
-- Of a numbering that went back, the offset may name what nobody has seen.
if not topic.epoch or is_behind(topic) then
  return {}
end
drop_stale(topic)
age(topic)
local withheld, from = {}, '-'
while topic.count > 0 do
  local entries = redis.call('XRANGE', topic.stream, from, last, 'COUNT', STRETCH)
  if #entries == 0 then
    break
  end
  local ids = {}
  for _, entry in ipairs(entries) do
    local omit = entry[2][10]
    if omit then
      withheld[#withheld + 1] = {entry[1], omit}
    else
      ids[#ids + 1] = entry[1]
      strike(topic, entry)
    end
  end
  if #ids > 0 then
    redis.call('XDEL', topic.stream, unpack(ids))
    topic.changed = true
  end
  from = '(' .. entries[#entries][1]
end
if topic.changed and topic.count == 0 then
  redis.call('DEL', topic.stream)
end
save_read(topic)
return {head(topic), withheld}
