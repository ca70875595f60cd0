-- A job comes in, or its idempotent double is found, or there is no room.
-- KEYS: idempotency key, if there is one (an empty name would be outside of every ACL)
-- ARGV: id, tenant, model, cost, hash of the body, queue limit, tenant limit, epoch, n, then n arguments of record
--       fields and values, then those of RQ's job hash
-- Answers {'created', id, created_ms, position}, {'replayed', id, what `seen` says} or {outcome, id}. 'lost': this is
-- not the Redis that the caller has known.
local id, tenant, model, body = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local n = tonumber(ARGV[9])

if redis.call('GET', EPOCH) ~= ARGV[8] then return {'lost', id} end
if KEYS[1] then
  local before = redis.call('GET', KEYS[1])
  if before then
    local old_id, old_body = string.match(before, '^(%S+) (%S+)$')
    if old_body ~= body then return {'conflict', old_id} end
    return {'replayed', old_id, seen(old_id)}
  end
end
local refused = refusal(tenant, model, ARGV[6], ARGV[7])
if refused then return {refused, id} end

redis.call('HSET', JOB .. id, unpack(ARGV, 10, 9 + n))
redis.call('HSET', RQ_JOB .. id, unpack(ARGV, 10 + n))
local created = accept(id, tenant, model, tonumber(ARGV[4]))
if KEYS[1] then redis.call('SET', KEYS[1], id .. ' ' .. body, 'EX', IDEMPOTENCY_SECONDS) end
return {'created', id, created, redis.call('ZRANK', QUEUED .. model, id)}
