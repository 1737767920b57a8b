
-- ARGV[5]: the epoch that is named, if any; ARGV[6]: the offset, which may be any that fits 64 bits; ARGV[7]: how long a
-- numbering is known that never had an event.
local epoch, text = ARGV[5], ARGV[6]
local topic = load(2, 3)
begin(topic)
drop_stale(topic)
age(topic)
local offset = tonumber(text)
local known = shared(topic, epoch == '' and topic.epoch or epoch, offset)
local proven, entries, lost
-- What turns out to be past its time as it is read is lost, which may decide the question.
repeat
  lost = topic.lost
  proven = known == offset and lost <= offset
  entries = read(topic, proven and '(' .. text .. '-0' or '-')
until topic.lost == lost
outlive(topic, topic.now, tonumber(ARGV[7]))
save_read(topic)
return {head(topic), entries, proven and 1 or 0, known or 0}
