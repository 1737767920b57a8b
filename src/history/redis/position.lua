
local topic = load()
begin(topic)
drop_stale(topic)
age(topic)
outlive(topic, topic.now)
save_read(topic)
return {head(topic)}
