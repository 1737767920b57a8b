
-- ARGV[5]: the epoch; then the id of each event that is confirmed.
local topic = load(2, 3)
if topic.epoch ~= ARGV[5] then
  return {}
end
drop_stale(topic)
for at = 6, #ARGV do
  local entry = redis.call('XRANGE', topic.stream, ARGV[at], ARGV[at])[1]
  if entry then
    redis.call('XDEL', topic.stream, ARGV[at])
    strike(topic, entry)
    topic.changed = true
  end
end
if topic.changed and topic.count == 0 then
  redis.call('DEL', topic.stream)
end
save_read(topic)
return {head(topic)}
