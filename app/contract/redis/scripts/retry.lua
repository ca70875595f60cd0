-- A failed job is asked for again: a new job with the same parameters. The old one keeps its end and learns of the new one,
-- so that asking twice makes one.
-- ARGV: id, id of the new job, tenant ('' for the operator), queue limit, tenant limit, epoch, counter that the cost is
--       charged to ('' for none), what it allows, line of the audit ('' for none), then RQ's job hash
-- Answers {'created' or 'replayed', id of the new job}, {'rate-limited', id, left, ms until the cost fits}, or {'lost',
-- 'missing', 'not-failed', 'content-blocked', 'queue-full', 'tenant-full' or 'input-gone', id}. Said again with the same new
-- id, it is 'created' again; {'created', id, 'forgotten'} if the new job was forgotten in between.
local id, new = ARGV[1], ARGV[2]
if redis.call('GET', EPOCH) ~= ARGV[6] then return {'lost', id} end
if redis.call('EXISTS', SAID .. new) == 1 then return {'created', new, 'forgotten'} end
if redis.call('EXISTS', JOB .. new) == 1 then return {'created', new} end
local r = redis.call('HMGET', JOB .. id, 'status', 'tenant', 'model', 'cost', 'retried_as', 'error')
if not r[1] or (ARGV[3] ~= '' and r[2] ~= ARGV[3]) then return {'missing', id} end
if r[1] ~= 'failed' then return {'not-failed', id} end
-- The same seed draws the same picture, and the same checker would flag it again.
if r[6] and cjson.decode(r[6]).slug == 'content-blocked' then return {'content-blocked', id} end
if r[5] and redis.call('EXISTS', JOB .. r[5]) == 1 then return {'replayed', r[5]} end
local refused, waiting = refusal(r[2], r[3], ARGV[4], ARGV[5])
if refused then return {refused, id} end
local inputs = field(id, 'inputs')
if gone_input(inputs) then return {'input-gone', id} end
if ARGV[7] ~= '' then
  local paid, left, wait = unpack(charge(ARGV[7], tonumber(ARGV[8]), whole(r[4] or 1)))
  if paid == 0 then return {'rate-limited', id, left, wait} end
end

local kept = {}
for name, value in pairs(read(JOB .. id, {'spec', 'metadata', 'retention_ms', 'traceparent', 'seats', 'webhook',
  'webhook_events', 'webhook_headers', 'inputs', 'task', 'question', 'requested_model', 'priority', 'deadline_ms'})) do
  if value then kept[#kept + 1], kept[#kept + 2] = name, value end
end
redis.call('HSET', RQ_JOB .. new, unpack(ARGV, 10))
redis.call('HSET', JOB .. id, 'retried_as', new)
redis.call('ZREM', DEAD, id)
accept(new, r[2], r[3], tonumber(r[4]) or 1, waiting, kept)
hold_inputs(new, inputs)
if ARGV[9] ~= '' then audit(ARGV[9]) end
return {'created', new}
