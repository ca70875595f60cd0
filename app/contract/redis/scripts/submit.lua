-- A job comes in, or its idempotent double is found, or there is no room.
-- KEYS: idempotency key, if there is one (an empty name would be outside of every ACL)
-- ARGV: id, tenant, model, cost, hash of the body, queue limit, tenant limit, epoch, counter that the cost is charged to
--       ('' for none), what it allows, ids of pictures that came in and that it needs (spaces between), n, then n
--       arguments of record fields and values, then those of RQ's job hash
-- Answers {'created', id, created_ms, position}, {'replayed', id, what `seen` says}, {'rate-limited', id, left, ms until
-- the cost fits}, {'input-gone', id of the picture} or {outcome, id}. 'lost': this is not the Redis that the caller has
-- known.
-- Said again with the same id, because the answer was lost, it is {'created', id, what `seen` says}: in once, paid once.
-- If the job was forgotten in between, it is {'created', id, created_ms, false}.
local id, tenant, model, body = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local cost, inputs, n = tonumber(ARGV[4]), ARGV[11], tonumber(ARGV[12])

if redis.call('GET', EPOCH) ~= ARGV[8] then return {'lost', id} end
if redis.call('EXISTS', JOB .. id, SAID .. id) > 0 then
  local forgotten = redis.call('GET', SAID .. id)
  if forgotten then return {'created', id, forgotten, false} end
  return {'created', id, seen(id)}
end
local known = KEYS[1] and replay(KEYS[1], body)
if known then return known end
local refused, waiting = refusal(tenant, model, ARGV[6], ARGV[7])
if refused then return {refused, id} end
local gone = gone_input(inputs)
if gone then return {'input-gone', gone} end
if ARGV[9] ~= '' then
  local paid, left, wait = unpack(charge(ARGV[9], tonumber(ARGV[10]), whole(cost)))
  if paid == 0 then return {'rate-limited', id, left, wait} end
end

redis.call('HSET', RQ_JOB .. id, unpack(ARGV, 13 + n))
local created = accept(id, tenant, model, cost, waiting, {unpack(ARGV, 13, 12 + n)})
hold_inputs(id, inputs)
if KEYS[1] then redis.call('SET', KEYS[1], id .. ' ' .. body, 'EX', IDEMPOTENCY_SECONDS) end
return {'created', id, created, redis.call('ZRANK', QUEUED .. model, id)}
