-- ARGV: id, tenant. Answers 'canceled' (also of a job that was canceled before, so that the call may be said again),
-- 'requested', 'over' (it has succeeded or failed) or 'missing'.
local id = ARGV[1]
local job = job_of(id)
if not job.status or job.tenant ~= ARGV[2] then return 'missing' end
if job.status == 'queued' then
  -- What was never begun is not charged: the tenant's next jobs start earlier by as much.
  local turns = TURNS .. queue_of(job.model, job.priority)
  if job.attempt == '0' and redis.call('ZSCORE', turns, job.tenant) then
    redis.call('ZINCRBY', turns, -(tonumber(job.cost) or 0), job.tenant)
  end
  dequeue(id, job.model, job)
  over(id, job, 'canceled', '{}', {'step', 0})
  return 'canceled'
elseif job.status == 'running' then
  redis.call('HSET', JOB .. id, 'cancel', 1)
  -- RQ's own command channel reaches the worker at once; the flag and the next beat stand behind it.
  redis.call('PUBLISH', RQ_COMMANDS .. job.worker, '{"command":"stop-job","job_id":"' .. id .. '"}')
  return 'requested'
end
return job.status == 'canceled' and 'canceled' or 'over'
