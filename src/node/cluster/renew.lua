-- Renews one node's lease; answers who leads, all leases, the nodes to be reaped by this one, whether it was itself taken for
-- dead, and the nodes that gave their leases up in the last hour.
-- KEYS: leases by their end, the leader, nodes that have ever been there, those being reaped and since when, the grace,
-- those that were reaped, and those that gave their leases up.
-- ARGV: the lease ("<id> <name>"), its length in ms, 1 if this node has held one before, and how long all this outlives the
-- last renewal of any node, in ms.
-- Redis' clock alone decides, so that nodes need not agree on the time.
local leases, leader, nodes, reaping, grace, reaped, left = unpack(KEYS)
local mine, length, again = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'

local function id_of(lease)
  return string.match(lease, '^%S+')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('ZSCORE', leases, mine) or 0)
if again and last - now < length / 2 then
  -- It renews late: Redis was away, or this node was. Others may be late for the same reason, and nobody is taken for
  -- dead until each has had the time to renew.
  redis.call('SET', grace, 1, 'PX', length)
end
redis.call('ZADD', leases, now + length, mine)
redis.call('SADD', nodes, id_of(mine))
if redis.call('EXISTS', grace) == 0 then
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
end

local leads = redis.call('GET', leader)
if not leads or leads == mine then
  redis.call('SET', leader, mine, 'PX', length)
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
    if now - since > 2 * length then
      redis.call('HSET', reaping, node, now)
      dead[#dead + 1] = node
    end
  end
end
for _, key in ipairs({leases, nodes, reaping}) do
  redis.call('PEXPIRE', key, ARGV[4])
end

local gone = redis.call('HGETALL', left)
for at = 1, #gone, 2 do
  if now - tonumber(gone[at + 1]) > 3600000 then
    redis.call('HDEL', left, gone[at])
  end
end
return {leads, held, dead, redis.call('HDEL', reaped, id_of(mine)), gone}
