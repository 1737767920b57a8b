//! The steps in Redis that must not be torn apart.
//!
//! Lists of stored messages are joined as texts and never decoded: Lua would change numbers and empty lists in them.

use std::sync::LazyLock;

use crate::bus::Script;

/// Joins two lists; appends a list to what is stored for a user, if there is room (with 0 bytes there is not); finds
/// the nodes where a user is.
const HELPERS: &str = r#"
-- What a list holds, without its brackets; nothing if that is nothing. Programs may write white space, as JSON allows.
local function items(list)
  local from = list and list:match('^%s*%[%s*()')
  if not from then return '' end
  -- Backwards from the end: a pattern would try each white space in the list as its last.
  local to = #list
  while to > from and list:find('^%s', to) do to = to - 1 end
  return list:sub(to, to) == ']' and list:sub(from, to - 1) or ''
end
local function joined(one, two)
  local first, second = items(one), items(two)
  if first == '' then return two end
  if second == '' then return one end
  return '[' .. first .. ',' .. second .. ']'
end
local function append(undelivered, user, list, most)
  local now = redis.call('HGET', undelivered, user)
  if most == 0 or (now and #now + #list > most) then return 0 end
  redis.call('HSET', undelivered, user, joined(now, list))
  return 1
end
local members
-- A place is the node and which stay of the user there it is: one that has gone and come is at another place.
local function places(nodes, prefix, user, but)
  local found = {}
  members = members or redis.call('SMEMBERS', nodes)
  for _, node in ipairs(members) do
    local stay = node ~= but and redis.call('HGET', prefix .. node, user)
    if stay then found[#found + 1] = node .. ':' .. stay end
  end
  return found
end
-- Notifies the nodes where a user is that something is stored.
local function notify(nodes, prefix, channel, user)
  local found = places(nodes, prefix, user, '')
  if #found > 0 then
    redis.call('PUBLISH', channel, '{"look":true}\n' .. cjson.encode({{user, found}}) .. '\n')
  end
end
-- Whether a node other than this one is there.
local function is_another_there(leases, node)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local all = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
  for at = 1, #all, 2 do
    if tonumber(all[at + 1]) > now and string.match(all[at], '^%S+') ~= node then return true end
  end
  return false
end
-- A user is connected. One who stays that is noted, as far as this cluster has put the user there.
local function connect(connected, known, user, exact)
  if redis.call('SADD', connected, user) == 1 and exact == '0' then redis.call('HSET', known, user, 1) end
end
"#;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            // Scripts of Redis cannot call each other, so each has the helpers in its own text.
            $(#[$doc])*
            pub(super) static $name: LazyLock<Script> =
                LazyLock::new(|| Script::new(&[HELPERS, $text].concat()));
        )*
    };
}

scripts! {
    /// A user comes to a node, and gets what is stored. It is set aside until its client has confirmed it.
    ///
    /// KEYS: the connected, what is stored, the nodes, what is set aside, the node's users, the known.
    /// ARGV: user, node, `take`, `drop` or `leave`, the field of what is set aside, what distinguishes this stay from others, and
    /// 1 if the connected are to be those who are.
    ENTER = r"
local connected, undelivered, nodes, aside, mine, known = unpack(KEYS)
local user, node, mode, field, stay, exact = unpack(ARGV)
-- The user's further connections to the node change nothing.
if not redis.call('HGET', mine, user) then
  redis.call('HSET', mine, user, stay)
  redis.call('SADD', nodes, node)
  connect(connected, known, user, exact)
end
if mode == 'leave' then return false end
local list = redis.call('HGET', undelivered, user)
if not list then return false end
redis.call('HDEL', undelivered, user)
-- What is not a list is given, so that it is counted.
if mode == 'drop' or list:match('^%s*%[%s*%]%s*$') then return false end
redis.call('HSET', aside, field, list)
return list
";

    /// A user's last connection to a node has gone.
    ///
    /// KEYS: the connected, the nodes, the node's users.
    /// ARGV: user, node, prefix of the nodes' users, prefix of those who have just gone, and 1 if the connected are to be those
    /// who are.
    LEAVE = r"
local connected, nodes, mine = unpack(KEYS)
local user, node, prefix, gone, exact = unpack(ARGV)
redis.call('HDEL', mine, user)
if exact == '1' and #places(nodes, prefix, user, node) == 0 then
  redis.call('SREM', connected, user)
  -- A dispatcher may have found the user connected, and be about to publish.
  redis.call('SET', gone .. user, 1, 'PX', 10000)
end
return 1
";

    /// What was set aside was not confirmed, and waits again, before what was stored in the meantime.
    ///
    /// KEYS: what is stored, what is set aside, the nodes. ARGV: user, field, prefix of the nodes' users, the channel.
    PUT_BACK = r"
local undelivered, aside, nodes = unpack(KEYS)
local user, field, prefix, channel = unpack(ARGV)
local list = redis.call('HGET', aside, field)
if not list then return 0 end
redis.call('HDEL', aside, field)
redis.call('HSET', undelivered, user, joined(list, redis.call('HGET', undelivered, user)))
notify(nodes, prefix, channel, user)
return 1
";

    /// Decides about a message for users: it is stored for those who are away, and published for the nodes where the others are.
    /// In this step all users are either away or at a node.
    ///
    /// What goes to nodes is stored for a while, in case that one of them is dying.
    ///
    /// Nothing happens if another node decides now ([`TAKE_LEAD`]).
    ///
    /// KEYS: the connected, what is stored, the nodes, what has gone to nodes, which node decides.
    /// ARGV: the node, prefix of the nodes' users, prefix of those who have just gone, the channel, the head of the publication, the
    /// message, the list to be stored or nothing, 1 if only messages are to be stored whose dispatcher found the user connected,
    /// most bytes, for how many milliseconds that is held, and the users. Returns for how many there was no room, or -1 if another
    /// node decides.
    SETTLE = r"
local connected, undelivered, nodes, sent, lead = unpack(KEYS)
local node, prefix, gone, channel, head, message, list, exact, most, period = unpack(ARGV, 1, 10)
if redis.call('GET', lead) ~= node then return -1 end
local held, full = {}, 0
for at = 11, #ARGV do
  local user = ARGV[at]
  local found = places(nodes, prefix, user, '')
  if #found > 0 then
    held[#held + 1] = {user, found}
  elseif list ~= '' and (exact ~= '1' or redis.call('SISMEMBER', connected, user) == 1
      or redis.call('EXISTS', gone .. user) == 1) then
    full = full + 1 - append(undelivered, user, list, tonumber(most))
  end
end
local places = cjson.encode(held)
redis.call('PUBLISH', channel, head .. '\n' .. places .. '\n' .. message)
if list ~= '' and #held > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('XADD', sent, 'MINID', '~', now - period, '*', 'held', places, 'list', list)
  redis.call('PEXPIRE', sent, 2 * period)
end
return full
";

    /// A message is for all whom it names, wherever they are: it is published for all nodes, unless another node decides.
    ///
    /// KEYS: which node decides. ARGV: the node, the channel, the publication. Returns 0, or -1 if another node decides.
    PASS_ON = r"
local node, channel, publication = unpack(ARGV)
if redis.call('GET', KEYS[1]) ~= node then return -1 end
redis.call('PUBLISH', channel, publication)
return 0
";

    /// From now on only this node decides about messages: what another one is about to decide does nothing. The publication comes
    /// to this node after all that was decided before.
    ///
    /// KEYS: which node decides. ARGV: the node, the channel, the publication.
    TAKE_LEAD = r"
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
";

    /// Messages for users have come to a node, and have not reached them. Those that are stored are found by a look where their
    /// users are. One whose user has just gone goes where the user is now, or is stored; nothing happens if it has also come there.
    ///
    /// A batch that the node has given back already does nothing: its answer was lost.
    ///
    /// KEYS: what is stored, the nodes, the node's users, which batch was the node's last.
    /// ARGV: the number of the batch, for how many milliseconds it is known, prefix of the nodes' users, the channel, most bytes,
    /// the node, the head of a publication; and of each message the user, `front`, `back` or `user`, the list to be stored, the
    /// message, how many places it came to, and those. Returns for how many there was no room.
    GIVE_BACK = r"
local undelivered, nodes, mine, last = unpack(KEYS)
local number, period, prefix, channel, most, node, head = unpack(ARGV, 1, 7)
-- An earlier batch may come after a later one, by a connection that was given up.
if tonumber(redis.call('GET', last) or 0) >= tonumber(number) then return 0 end
most = tonumber(most)
local full, at = 0, 8
while at <= #ARGV do
  local user, where, list, message, count = unpack(ARGV, at, at + 4)
  local came = {}
  for n = at + 5, at + 4 + tonumber(count) do came[ARGV[n]] = true end
  at = at + 5 + tonumber(count)
  if where == 'front' then
    redis.call('HSET', undelivered, user, joined(list, redis.call('HGET', undelivered, user)))
    notify(nodes, prefix, channel, user)
  elseif where == 'back' then
    full = full + 1 - append(undelivered, user, list, most)
    notify(nodes, prefix, channel, user)
  else
    -- The stay that it came to is over, whether or not Redis has heard of that. The user may have come again since.
    local stay = redis.call('HGET', mine, user)
    if stay and came[node .. ':' .. stay] then redis.call('HDEL', mine, user) end
    local found, is_there = places(nodes, prefix, user, ''), false
    for _, place in ipairs(found) do is_there = is_there or came[place] end
    if #found == 0 then
      full = full + 1 - append(undelivered, user, list, most)
    elseif not is_there then
      redis.call('PUBLISH', channel, head .. '\n' .. cjson.encode({{user, found}}) .. '\n' .. message)
    end
  end
end
-- Last of all, so that a batch that fails is repeated.
redis.call('SET', last, number, 'PX', period)
return full
";

    /// Takes what was stored for users who are connected: a dispatcher found them away, and stored it after they had come. It is
    /// set aside until it is known what became of it ([`LOOKED`]). A look whose answer was lost is made again, and finds that too.
    ///
    /// KEYS: what is set aside, what is stored. ARGV: users, and last what the fields of what is set aside begin with. Returns a
    /// list for each.
    LOOK = r"
local aside, undelivered = unpack(KEYS)
local prefix, lists = ARGV[#ARGV], {}
for at = 1, #ARGV - 1 do
  local user = ARGV[at]
  local list = redis.call('HGET', aside, prefix .. user)
  local more = redis.call('HGET', undelivered, user)
  if more then
    list = joined(list, more)
    redis.call('HSET', aside, prefix .. user, list)
    redis.call('HDEL', undelivered, user)
  end
  lists[at] = list or ''
end
return lists
";

    /// What a look has found is delivered, or is stored again, before what was stored in the meantime. A second time it does nothing.
    ///
    /// KEYS: what is stored, what is set aside, the nodes. ARGV: user, field, prefix of the nodes' users, the channel, and the list
    /// that is stored again or nothing.
    LOOKED = r"
local undelivered, aside, nodes = unpack(KEYS)
local user, field, prefix, channel, list = unpack(ARGV)
if redis.call('HDEL', aside, field) == 0 then return 0 end
if list ~= '' then
  redis.call('HSET', undelivered, user, joined(list, redis.call('HGET', undelivered, user)))
  notify(nodes, prefix, channel, user)
end
return 1
";

    /// Says who is at a node, after Redis may have lost it.
    ///
    /// KEYS: the connected, the nodes, the node's users, the known.
    /// ARGV: node, what distinguishes these stays from others, 1 if the connected are to be those who are, users.
    ANNOUNCE = r"
redis.call('SADD', KEYS[2], ARGV[1])
for at = 4, #ARGV do
  if not redis.call('HGET', KEYS[3], ARGV[at]) then redis.call('HSET', KEYS[3], ARGV[at], ARGV[2]) end
  connect(KEYS[1], KEYS[4], ARGV[at], ARGV[3])
end
return 1
";

    /// Whether the node is known, how many users it has, which nodes have users but no lease, and whether users are known. Notes
    /// that the node is there.
    ///
    /// KEYS: the nodes, the node's users, the leases, when nodes were there last, the known. ARGV: node.
    CHECK = r"
local time = redis.call('TIME')
redis.call('HSET', KEYS[4], ARGV[1], time[1] * 1000 + math.floor(time[2] / 1000))
local alive, dead = {}, {}
for _, lease in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  alive[string.match(lease, '^%S+')] = true
end
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not alive[node] then dead[#dead + 1] = node end
end
return {redis.call('SISMEMBER', KEYS[1], ARGV[1]), redis.call('HLEN', KEYS[2]), dead, redis.call('EXISTS', KEYS[5])}
";

    /// Takes some of the known out of the connected, unless a node other than this one is there.
    ///
    /// KEYS: the connected, the known, the leases, the mark that the known were taken out.
    /// ARGV: node, where to begin, and how many at most. Returns where to go on, or `taken` if another node is there.
    PARK = r"
local connected, known, leases, parked = unpack(KEYS)
local node, cursor, most = unpack(ARGV)
if is_another_there(leases, node) then return 'taken' end
local page = redis.call('HSCAN', known, cursor, 'COUNT', most)
if #page[2] > 0 then redis.call('SET', parked, 1) end
for at = 1, #page[2], 2 do
  redis.call('SREM', connected, page[2][at])
end
return page[1]
";

    /// Puts some of the known back among the connected, if they were taken out.
    ///
    /// KEYS: the connected, the known, the leases, the mark that the known were taken out.
    /// ARGV: node, where to begin, and how many at most. Returns where to go on, or `too soon` before the node has a lease.
    RESTORE = r"
local connected, known, leases, parked = unpack(KEYS)
local node, cursor, most = unpack(ARGV)
if redis.call('EXISTS', parked) == 0 then return '0' end
local is_there = false
for _, lease in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  is_there = is_there or string.match(lease, '^%S+') == node
end
if not is_there then return 'too soon' end
local page = redis.call('HSCAN', known, cursor, 'COUNT', most)
for at = 1, #page[2], 2 do
  redis.call('SADD', connected, page[2][at])
end
if page[1] == '0' then redis.call('DEL', parked) end
return page[1]
";

    /// Forgets some of the known, and takes those out of the connected who are not.
    ///
    /// KEYS: the connected, the known, the leases, the mark that the known were taken out, the nodes.
    /// ARGV: prefix of the nodes' users, where to begin, and how many at most. Returns where to go on.
    CLEAN = r"
local connected, known, _, parked, nodes = unpack(KEYS)
local prefix, cursor, most = unpack(ARGV)
redis.call('DEL', parked)
local page = redis.call('HSCAN', known, cursor, 'COUNT', most)
for at = 1, #page[2], 2 do
  local user = page[2][at]
  redis.call('HDEL', known, user)
  if #places(nodes, prefix, user, '') == 0 then redis.call('SREM', connected, user) end
end
return page[1]
";

    /// Takes away some of the users of a node that has gone. Returns how many there were.
    ///
    /// KEYS: the connected, the nodes, the dead node's users.
    /// ARGV: the dead node, prefix of the nodes' users, 1 if the connected are to be those who are, and how many at most.
    REAP = r"
local connected, nodes, dead = unpack(KEYS)
local node, prefix, exact, most = unpack(ARGV)
local found, count = redis.call('HSCAN', dead, 0, 'COUNT', most)[2], 0
for at = 1, #found, 2 do
  local user = found[at]
  count = count + 1
  redis.call('HDEL', dead, user)
  if exact == '1' and #places(nodes, prefix, user, node) == 0 then
    redis.call('SREM', connected, user)
  end
end
return count
";
}
