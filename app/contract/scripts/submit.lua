-- A job comes in, or its idempotent double is found, or there is no room.
-- KEYS: idempotency key ('' for none)
-- ARGV: id, tenant, model, hash of the body, queue limit, tenant limit, n, then n arguments of record fields and
--       values, then those of RQ's job hash
local id, tenant, model, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local n = tonumber(ARGV[7])

if KEYS[1] ~= '' then
  local before = redis.call('GET', KEYS[1])
  if before then
    local old_id, old_body = string.match(before, '^(%S+) (%S+)$')
    return {old_body == body and 'replayed' or 'conflict', old_id}
  end
end
if redis.call('ZCARD', QUEUED .. model) >= tonumber(ARGV[5]) then return {'queue-full', id} end
if redis.call('SCARD', OPEN .. tenant) >= tonumber(ARGV[6]) then return {'tenant-full', id} end

local at = now()
redis.call('HSET', JOB .. id, unpack(ARGV, 8, 7 + n))
redis.call('HSET', JOB .. id, 'id', id, 'tenant', tenant, 'model', model, 'status', 'queued', 'attempt', 0,
  'failures', 0, 'step', 0, 'created_ms', at, 'v', RECORD_VERSION)
redis.call('ZADD', TENANT .. tenant, at, id)
redis.call('SADD', OPEN .. tenant, id)
redis.call('ZADD', QUEUED .. model, at, id)
redis.call('SADD', MODELS_QUEUED, model)
if KEYS[1] ~= '' then redis.call('SET', KEYS[1], id .. ' ' .. body, 'EX', IDEMPOTENCY_SECONDS) end
emit(id, 'job.queued', '{}')

local queue = RQ_QUEUE .. QUEUE_PREFIX .. model
redis.call('HSET', RQ_JOB .. id, unpack(ARGV, 8 + n))
redis.call('SADD', RQ_QUEUES, queue)
redis.call('RPUSH', queue, id)
return {'created', id}
