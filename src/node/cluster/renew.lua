-- Renews one node's lease; answers who leads, all leases, the nodes to be reaped by this one, whether it was itself taken for
-- dead, the nodes that gave their leases up in the last hour and when, what the node of each lease states, the time, whether it
-- is unknown which apps this node serves, a digest of the leases, of what is stated, and of who gave a lease up, and until when
-- nobody is taken for dead. The three are left out if the node knows them, and the commands of a renewal are as many for many nodes as for few.
-- KEYS: leases by their end, the leader and until when, nodes that have ever been there, those being reaped and since when,
-- when any node last renewed and until when nobody is taken for dead, those that were reaped, those that gave their
-- leases up, of each node the version that it reads and when it leads at the earliest, and the apps that it serves.
-- ARGV: the lease ("<id> <name>"), its length in ms, how long all this outlives the last renewal of any node, in ms, the
-- version that the node reads, its apps, or nothing if Redis has them already, for how many ms after a node gave its
-- lease up its clients may come back to what it had, the digest of what the node knows, or nothing, and, unless this is its
-- first renewal, the time that its last one returned, how many ms have passed since by the node's own clock, and until when
-- nobody was taken for dead then.
-- Redis' clock alone decides, by TIME, so that nodes need not agree on the time.
local leases, leader, nodes, reaping, renewals, reaped, left, stated, serves = unpack(KEYS)
local mine, length, version, apps = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[5]
-- What stands for all nodes that lead by app, where nodes of version 1 have the one that leads.
local BY_APP = 'by-app'

local function id_of(lease)
  return string.match(lease, '^%S+')
end

local me = id_of(mine)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Every node renews several times in half a lease. If none did, Redis was away, or all of them were, or its clock has jumped:
-- then nobody is taken for dead until each has had the time to renew. A single node that is late says nothing of the others.
local before = redis.call('HMGET', renewals, 'last', 'grace')
local last, grace = tonumber(before[1] or 0), tonumber(before[2] or 0)
-- Whether the clock has gone as the node's own has. If another node has seen it jump meanwhile, it may have jumped back since.
local is_steady = false
if ARGV[8] and ARGV[8] ~= '' then
  local is_right = math.abs(now - tonumber(ARGV[8]) - tonumber(ARGV[9])) <= length / 20
  is_steady = is_right and tonumber(ARGV[10]) == grace
end
local is_unsure = now - last > length / 2 or now < last
if is_unsure then
  grace = now + length
end
if now < last then
  -- By a clock that went back, leases would not end for as long as it went.
  for _, lease in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    redis.call('ZADD', leases, 'LT', now + length, lease)
  end
end
local states = redis.call('HGETALL', stated)
-- Nobody leads anew until others cannot go by what they were told any more: a lease after the last renewal, if the clock is
-- steady. If it has jumped, or if that is not known, it is a lease from now on.
local lead_again = now + length
if is_steady then
  lead_again = math.min(lead_again, last + length + length / 20)
end
if is_unsure then
  for at = 1, #states, 2 do
    local reads, from = string.match(states[at + 1], '^(%d+) (%d+)$')
    from = math.min(math.max(tonumber(from), lead_again), now + length)
    states[at + 1] = reads .. ' ' .. string.format('%.0f', from)
    redis.call('HSET', stated, states[at], states[at + 1])
  end
end
redis.call('HSET', renewals, 'last', now, 'grace', grace)
local is_new = redis.call('ZADD', leases, now + length, mine) == 1
redis.call('SADD', nodes, me)
if grace <= now or grace > now + length then
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
end

-- While a node of version 1 has this, it leads all apps, and no other node leads any.
local recorded = redis.call('GET', leader)
local leads_until, leads = string.match(recorded or '', '^(%d+) (.*)$')
if recorded and not leads then
  -- As the first nodes of version 1 write it, without the time, which is the key's own.
  leads = recorded
else
  local is_free = not leads or leads == BY_APP or tonumber(leads_until) <= now
  leads = is_free and BY_APP or leads
  -- By a clock that went back, the lead of a node that has ended would last for as long as it went.
  if is_free or tonumber(leads_until) > now + length then
    redis.call('SET', leader, string.format('%.0f', now + length) .. ' ' .. leads, 'PX', length)
  end
end

-- By id, each lease and when it ends.
local ends, lease_of, end_of = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES'), {}, {}
for at = 1, #ends, 2 do
  local id = id_of(ends[at])
  lease_of[id], end_of[id] = ends[at], ends[at + 1]
end
local own
local others_end = 0
for at = 1, #states, 2 do
  local id = states[at]
  if id == me then
    own = states[at + 1]
  elseif end_of[id] then
    others_end = math.max(others_end, tonumber(end_of[id]))
  end
end
-- What another node goes by lasts no longer than its lease.
local latest = math.max(others_end, now + length)
local leads_from = tonumber(string.match(own or '', ' (%d+)$')) or latest
if is_unsure and others_end == 0 then
  leads_from = now
elseif is_unsure then
  -- What it has stated was put off above.
  leads_from = own and leads_from or latest
elseif is_new then
  leads_from = math.max(now, others_end)
end
-- Nodes of version 1 do not heed it when the clock goes back.
leads_from = math.min(leads_from, latest)
local statement = version .. ' ' .. string.format('%.0f', leads_from)
if statement ~= own then
  redis.call('HSET', stated, me, statement)
end
if apps ~= '' then
  redis.call('HSET', serves, me, apps)
end

-- In the order of the statements: the leases come in another after each renewal.
local held, statements, is_listed = {}, {}, {}
for at = 1, #states, 2 do
  local id = states[at]
  if lease_of[id] then
    held[#held + 1], is_listed[id] = lease_of[id], true
    statements[#held] = id == me and statement or states[at + 1]
  else
    redis.call('HDEL', stated, id)
    redis.call('HDEL', serves, id)
  end
end
-- Nodes of version 1 state nothing, and this one has not yet if it is new.
local others = {}
for id, lease in pairs(lease_of) do
  if not is_listed[id] then
    others[#others + 1] = lease
  end
end
table.sort(others)
for _, lease in ipairs(others) do
  held[#held + 1] = lease
  statements[#held] = lease == mine and statement or ''
end

local gone, left_at = {}, {}
local noted = redis.call('HGETALL', left)
for at = 1, #noted, 2 do
  local id, when = noted[at], tonumber(noted[at + 1])
  if now - when > 3600000 then
    redis.call('HDEL', left, id)
  else
    gone[#gone + 1], gone[#gone + 2], left_at[id] = id, noted[at + 1], when
  end
end

local dead, all = {}, redis.call('SMEMBERS', nodes)
-- One with a lease that is not among the nodes, as it was taken for dead and came back, is with its next renewal.
if #all ~= #held then
  for _, node in ipairs(all) do
    if not lease_of[node] then
      local since_left = now - (left_at[node] or 0)
      local is_awaited = since_left >= 0 and since_left < tonumber(ARGV[6] or 0)
      local since = not is_awaited and tonumber(redis.call('HGET', reaping, node) or 0)
      -- Whoever began to reap it may have died of that itself.
      if since and (now - since > 2 * length or now < since) then
        redis.call('HSET', reaping, node, now)
        dead[#dead + 1] = node
      end
    end
  end
end
for _, key in ipairs({leases, nodes, reaping, renewals, stated, serves}) do
  redis.call('PEXPIRE', key, ARGV[3])
end

local known = {table.concat(statements, ','), table.concat(gone, ' '), table.concat(held, '\n')}
local digest = redis.sha1hex(table.concat(known, '\n'))
if digest == ARGV[7] then
  held, gone, statements = {}, {}, {}
end
return {leads, held, dead, redis.call('HDEL', reaped, me), gone, statements, now,
  redis.call('HGET', serves, me) and 0 or 1, digest, grace}
