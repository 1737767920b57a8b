
-- ARGV[7]: the epoch; then the id and the bytes of each event that is confirmed.
local topic = load()
if topic.epoch ~= ARGV[7] then
  return {}
end
drop_stale(topic)
for at = 8, #ARGV, 2 do
  if redis.call('XDEL', stream, ARGV[at]) == 1 then
    topic.count, topic.bytes, topic.changed = topic.count - 1, topic.bytes - tonumber(ARGV[at + 1]), true
  end
end
if topic.changed and topic.count == 0 then
  redis.call('DEL', stream)
end
save_read(topic)
return {head(topic)}
