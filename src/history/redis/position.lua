
-- ARGV[5]: how long a numbering is known that never had an event.
local topic = load(2, 3)
begin(topic)
drop_stale(topic)
age(topic)
outlive(topic, topic.now, tonumber(ARGV[5]))
save_read(topic)
return {head(topic)}
