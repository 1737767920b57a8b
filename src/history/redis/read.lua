
-- ARGV[7]: the offset after which to read; ARGV[8]: how many events at most, if that is bounded.
local topic = load()
if not topic.epoch and topic.count == 0 then
  return {}
end
drop_stale(topic)
age(topic)
local entries = read(topic, '(' .. ARGV[7] .. '-0', ARGV[8] ~= '' and ARGV[8] or nil)
save_read(topic)
return {head(topic), entries}
