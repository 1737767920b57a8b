
-- ARGV[5]: the offset after which to read; ARGV[6]: how many events at most, if that is bounded.
local topic = load(2, 3)
if not topic.epoch and topic.count == 0 then
  return {}
end
drop_stale(topic)
age(topic)
local entries = read(topic, '(' .. ARGV[5] .. '-0', ARGV[6] ~= '' and ARGV[6] or nil)
save_read(topic)
return {head(topic), entries}
