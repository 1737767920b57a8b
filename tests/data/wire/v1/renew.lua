-- Renews one node's lease; answers who leads, all leases, the nodes to be reaped by this one, whether it was itself taken for
-- dead, and the nodes that gave their leases up in the last hour.
-- KEYS: leases by their end, the leader and until when, nodes that have ever been there, those being reaped and since when,
-- when any node last renewed and until when nobody is taken for dead, those that were reaped, and those that gave their
-- leases up.
-- ARGV: the lease ("<id> <name>"), its length in ms, and how long all this outlives the last renewal of any node, in ms.
-- Redis' clock alone decides, by TIME, so that nodes need not agree on the time.
local leases, leader, nodes, reaping, renewals, reaped, left = unpack(KEYS)
local mine, length = ARGV[1], tonumber(ARGV[2])

local function id_of(lease)
  return string.match(lease, '^%S+')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Every node renews several times in half a lease. If none did, Redis was away, or all of them were, or its clock has jumped:
-- then nobody is taken for dead until each has had the time to renew. A single node that is late says nothing of the others.
local last = tonumber(redis.call('HGET', renewals, 'last') or 0)
local grace = tonumber(redis.call('HGET', renewals, 'grace') or 0)
if now - last > length / 2 or now < last then
  grace = now + length
end
if now < last then
  -- By a clock that went back, leases would not end for as long as it went.
  for _, lease in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    redis.call('ZADD', leases, 'LT', now + length, lease)
  end
end
redis.call('HSET', renewals, 'last', now, 'grace', grace)
redis.call('ZADD', leases, now + length, mine)
redis.call('SADD', nodes, id_of(mine))
if grace <= now or grace > now + length then
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
end

local recorded = redis.call('GET', leader)
local leads_until, leads = string.match(recorded or '', '^(%d+) (.*)$')
if recorded and not leads then
  -- As the version before writes it, without the time, which is the key's own.
  leads = recorded
elseif not leads or leads == mine or tonumber(leads_until) <= now then
  redis.call('SET', leader, string.format('%.0f', now + length) .. ' ' .. mine, 'PX', length)
  leads = mine
end

local held, alive, dead = redis.call('ZRANGE', leases, 0, -1), {}, {}
for _, lease in ipairs(held) do
  alive[id_of(lease)] = true
end
for _, node in ipairs(redis.call('SMEMBERS', nodes)) do
  if not alive[node] then
    local since = tonumber(redis.call('HGET', reaping, node) or 0)
    -- Whoever began to reap it may have died of that itself.
    if now - since > 2 * length or now < since then
      redis.call('HSET', reaping, node, now)
      dead[#dead + 1] = node
    end
  end
end
for _, key in ipairs({leases, nodes, reaping, renewals}) do
  redis.call('PEXPIRE', key, ARGV[3])
end

local gone = redis.call('HGETALL', left)
for at = 1, #gone, 2 do
  if now - tonumber(gone[at + 1]) > 3600000 then
    redis.call('HDEL', left, gone[at])
  end
end
return {leads, held, dead, redis.call('HDEL', reaped, id_of(mine)), gone}
