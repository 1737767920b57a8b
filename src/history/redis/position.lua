
-- ARGV[7]: how long a numbering is known that never had an event.
local topic = load()
begin(topic)
drop_stale(topic)
age(topic)
outlive(topic, topic.now, tonumber(ARGV[7]))
save_read(topic)
return {head(topic)}
