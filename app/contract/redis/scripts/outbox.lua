-- What the scripts of the outbox share. An entry "<job id>/job.<word>/<attempt>" and its RQ id
-- "webhook-<job id>-<word>-<attempt>" say the same: whoever finds one can make the other.
local WEBHOOKS = RQ_QUEUE .. WEBHOOK_QUEUE

local function rq_id_of(entry)
  local id, word, attempt = string.match(entry, '^(job_%w+)/job%.(%l+)/(%d+)$')
  return id and ('webhook-' .. id .. '-' .. word .. '-' .. attempt)
end

local function entry_of(rq_id)
  local id, word, attempt = string.match(rq_id, '^webhook%-(job_%w+)%-(%l+)%-(%d+)$')
  return id and (id .. '/job.' .. word .. '/' .. attempt)
end

-- {job id, event, attempt, name of the entry inside its job's state}
local function parts(entry)
  local id, event, attempt = string.match(entry, '^([^/]+)/([^/]+)/([^/]+)$')
  return {id = id, event = event, attempt = attempt, name = event .. '/' .. attempt}
end

-- The key where a job's record lies, be it forgotten for everybody else; nil if nothing is known of it any more.
local function home(id)
  for _, key in ipairs({JOB .. id, OWED .. id}) do
    if redis.call('EXISTS', key) == 1 then return key end
  end
end

-- The state and the log of a job are forgotten with it. Should that never happen, they go after this.
local function keep(key, id)
  local r = redis.call('HMGET', home(id), 'expires_ms', 'retention_ms')
  local ends = tonumber(r[1]) or now() + (tonumber(r[2]) or 0)
  redis.call('PEXPIREAT', key, math.max(ends, now() + OWED_MS))
end

-- Nobody owns the entry any more: the state and RQ's view of that try are cleared.
local function release(entry)
  local p, rq_id = parts(entry), rq_id_of(entry)
  local state = OUTBOX_STATE .. p.id
  local r = redis.call('HMGET', state, p.name .. ':token', p.name .. ':worker')
  redis.call('HDEL', state, p.name .. ':token', p.name .. ':worker')
  if rq_id then rq_ended(rq_id, WEBHOOK_QUEUE, r[1], r[2]) end
end
