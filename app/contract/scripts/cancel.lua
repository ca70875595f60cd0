-- ARGV: id, tenant. Answers 'canceled', 'requested', 'over' or 'missing'.
local id = ARGV[1]
local r = redis.call('HMGET', JOB .. id, 'status', 'tenant', 'model', 'worker')
if not r[1] or r[2] ~= ARGV[2] then return 'missing' end
if r[1] == 'queued' then
  redis.call('LREM', RQ_QUEUE .. QUEUE_PREFIX .. r[3], 1, id)
  over(id, 'canceled', '{}', {'step', 0})
  return 'canceled'
elseif r[1] == 'running' then
  redis.call('HSET', JOB .. id, 'cancel', 1)
  -- RQ's own command channel reaches the worker at once; the flag and the next beat stand behind it.
  redis.call('PUBLISH', RQ_COMMANDS .. r[4], '{"command":"stop-job","job_id":"' .. id .. '"}')
  return 'requested'
end
return 'over'
