-- The owner cannot finish (it is told to stop, or the store is away) and says so: queued again, attempt not held
-- against the job.
-- ARGV: id, token, reason, what the attempt has used (JSON)
-- Answers 'done' (also to the same word said again after a broken connection) or 'stale'.
local id, token = ARGV[1], ARGV[2]
local job = job_of(id)
if job.status ~= 'running' or job.token ~= token then return field(id, 'given_back') == token and 'done' or 'stale' end
redis.call('HSET', JOB .. id, 'given_back', token)
local used = cjson.decode(ARGV[4])
if job.cancel then
  over(id, job, 'canceled', '{}', {'step', 0}, used)
else
  if next(used) then use(job.tenant, now(), used) end
  requeue(id, job, ARGV[3])
end
return 'done'
