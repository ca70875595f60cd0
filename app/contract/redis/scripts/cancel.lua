-- ARGV: id, tenant. Answers 'canceled' (also of a job that was canceled before, so that the call may be said again),
-- 'requested', 'over' (it has succeeded or failed) or 'missing'.
local id = ARGV[1]
local r = redis.call('HMGET', JOB .. id, 'status', 'tenant', 'model', 'worker', 'cost', 'attempt',
  'priority')
if not r[1] or r[2] ~= ARGV[2] then return 'missing' end
if r[1] == 'queued' then
  -- What was never begun is not charged: the tenant's next jobs start earlier by as much.
  local turns = TURNS .. queue_of(r[3], r[7])
  if r[6] == '0' and redis.call('ZSCORE', turns, r[2]) then
    redis.call('ZINCRBY', turns, -(tonumber(r[5]) or 0), r[2])
  end
  dequeue(id, r[3])
  over(id, 'canceled', '{}', {'step', 0})
  return 'canceled'
elseif r[1] == 'running' then
  redis.call('HSET', JOB .. id, 'cancel', 1)
  -- RQ's own command channel reaches the worker at once; the flag and the next beat stand behind it.
  redis.call('PUBLISH', RQ_COMMANDS .. r[4], '{"command":"stop-job","job_id":"' .. id .. '"}')
  return 'requested'
end
return r[1] == 'canceled' and 'canceled' or 'over'
