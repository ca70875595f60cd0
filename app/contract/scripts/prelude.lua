-- What every script shares. keys.py writes its names above this line as locals.
-- Time is Redis time: hosts disagree about theirs.

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function field(id, name)
  return redis.call('HGET', JOB .. id, name)
end

-- Does this token still own the job? A stale token must change nothing.
local function owns(id, token)
  local r = redis.call('HMGET', JOB .. id, 'status', 'token')
  return r[1] == 'running' and r[2] == token
end

-- Append a fact to the job's stream and, if its webhook asked for it, to the outbox.
local function emit(id, event, data)
  redis.call('XADD', EVENTS .. id, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'data', data)
  local wanted = field(id, 'webhook_events')
  if wanted and string.find(wanted, '"' .. event .. '"', 1, true) then
    redis.call('ZADD', OUTBOX, 'NX', now(), id .. '/' .. event .. '/' .. (field(id, 'attempt') or '0'))
  end
end

-- RQ's view of one attempt: an execution whose id is our token.
local function rq_started(id, token, worker, queue, at)
  local seconds, execution = at / 1000, id .. ':' .. token
  local ends = seconds + RQ_TTL_SECONDS
  redis.call('HSET', RQ_EXECUTION .. execution, 'id', token, 'job_id', id, 'worker_name', worker,
    'created_at', seconds, 'last_heartbeat', seconds)
  redis.call('EXPIRE', RQ_EXECUTION .. execution, RQ_TTL_SECONDS)
  redis.call('ZADD', RQ_JOB_EXECUTIONS .. id, ends, token)
  redis.call('EXPIRE', RQ_JOB_EXECUTIONS .. id, RQ_TTL_SECONDS)
  redis.call('ZADD', RQ_STARTED .. queue, ends, execution)
  redis.call('SADD', RQ_WORKER .. worker .. ':executions', execution)
  redis.call('EXPIRE', RQ_WORKER .. worker .. ':executions', RQ_TTL_SECONDS)
  redis.call('HSET', RQ_JOB .. id, 'status', 'started', 'worker_name', worker)
end

local function rq_ended(id, queue)
  local r = redis.call('HMGET', JOB .. id, 'token', 'worker')
  if not r[1] then return end
  local execution = id .. ':' .. r[1]
  redis.call('DEL', RQ_EXECUTION .. execution, RQ_JOB_EXECUTIONS .. id)
  redis.call('ZREM', RQ_STARTED .. queue, execution)
  if r[2] then redis.call('SREM', RQ_WORKER .. r[2] .. ':executions', execution) end
end

-- Queue an attempt again, at the front: the job has waited its turn already.
-- Without a token nobody owns it, so whatever the old owner still says is stale.
local function requeue(id, reason)
  local r = redis.call('HMGET', JOB .. id, 'model', 'attempt')
  local queue = QUEUE_PREFIX .. r[1]
  rq_ended(id, queue)
  redis.call('ZREM', LEASES, id)
  redis.call('HDEL', JOB .. id, 'token', 'worker')
  redis.call('HSET', JOB .. id, 'status', 'queued', 'step', 0)
  redis.call('ZADD', QUEUED .. r[1], now(), id)
  redis.call('HSET', RQ_JOB .. id, 'status', 'queued', 'worker_name', '')
  redis.call('LPUSH', RQ_QUEUE .. queue, id)
  emit(id, 'job.restarted', '{"reason":"' .. reason .. '","attempts":' .. r[2] .. '}')
end

-- The one way a job ends. `fields` are written with the status; the record keeps its token, so that the same word
-- said twice by its owner is recognised.
local function over(id, status, data, fields)
  local at = now()
  local r = redis.call('HMGET', JOB .. id, 'model', 'retention_ms', 'tenant')
  rq_ended(id, QUEUE_PREFIX .. r[1])
  redis.call('ZREM', LEASES, id)
  redis.call('ZREM', QUEUED .. r[1], id)
  redis.call('SREM', OPEN .. r[3], id)
  redis.call('DEL', RQ_JOB .. id)
  redis.call('HSET', JOB .. id, 'status', status, 'ended_ms', at, 'expires_ms', at + r[2], unpack(fields))
  redis.call('ZADD', EXPIRY, at + r[2], id)
  emit(id, 'job.' .. status, data)
end

