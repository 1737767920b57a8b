-- What every script begins with. KEYS: what says which primary keeps the topics (none where that is not known), then of each topic
-- its state, a hash, and its stream; and, where the app's kept bytes are counted, the hash of these. ARGV: the epoch of a
-- numbering that begins here, how long one is known of which nothing is kept, then of each topic in which epoch the caller has seen
-- it, if it has; and, in one byte, 8 and 8, of which kind it is, the newest offset that was seen, and the birth of that
-- numbering. Scripts on one topic have their own from 5 on.
--
-- Fields of the state: e epoch (8 bytes), g birth of the numbering (ms since 1970; a later one has more), n newest offset,
-- l offset up to which events were removed other than by confirmation, c events kept, b their bytes, x moment at which the
-- oldest is past its time (never too late), d moment at which Redis forgets both keys, i the primary that gave out the
-- newest offset, p the numberings that this one goes on from: of each its epoch and the last offset that is in this one too,
-- both in 8 bytes; m and w how many events it keeps, and how many bytes; q up to when, for which bounds and at which primary
-- events are appended without a look at the rest (quick.lua).
-- Fields of an event, in this order: t when it came, x when it is past its time, n its bytes with those of o, r its record, and o whom it
-- leaves out, if anyone.
--
-- Offsets are Lua's numbers, which are exact up to 2^53.
local fresh, quiet = ARGV[1], tonumber(ARGV[2])

-- Kinds of a topic, of which one may be both: that of a user, and one whose bytes are counted.
local USER, COUNTED = 1, 2
-- How much more than its bounds a topic keeps until it is trimmed, so that not every event costs a look at the oldest. Readers
-- trim it before they look.
local SLACK_KEPT = 1.125
-- What an event counts for beside its bytes among those of its app.
local ALLOWANCE = 640
-- Parts of its time in which an event is looked at as kept: it counts until the end of the part in which it is past its time.
local PARTS = 16

local now_is, primary_is

local function now_ms()
  if not now_is then
    local time = redis.call('TIME')
    now_is = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now_is
end

local function primary()
  primary_is = primary_is or redis.call('GET', KEYS[1]) or ''
  return primary_is
end

-- By the key of an app's kept bytes, how many more of those there are that are past their time at each moment.
local sums = {}

-- Counts `events` of `bytes` together, which came at `came` and are past their time at `past`; fewer than none where they are removed.
local function tally(key, came, past, events, bytes)
  local _, exponent = math.frexp(math.max((past - came) / PARTS, 1000))
  local part = math.ldexp(1, exponent - 1)
  local moment = string.format('%.0f', math.ceil(past / part) * part)
  local ends = sums[key] or {}
  sums[key] = ends
  ends[moment] = (ends[moment] or 0) + bytes + events * ALLOWANCE
end

-- Writes what was counted. Redis that is full may refuse that, where nothing was stored either.
local function write_sums()
  for key, ends in pairs(sums) do
    for moment, bytes in pairs(ends) do
      local before = redis.pcall('HGET', key, moment)
      before = type(before) == 'string' and tonumber(before) or 0
      redis.pcall('HSET', key, moment, string.format('%.0f', before + bytes))
    end
  end
end
