-- One round trip for all jobs in flight: extend the leases that are still ours.
-- ARGV: id, token, id, token, ...
-- Answers per job 'kept', 'lost' or 'cancel'; said again, the same, with leases that end later by as much.
local answers, at = {}, now()
for i = 1, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local job = read(JOB .. id, {'status', 'token', 'cancel'})
  if job.status ~= 'running' or job.token ~= token then
    answers[#answers + 1] = 'lost'
  else
    redis.call('ZADD', LEASES, 'XX', at + LEASE_MS, id)
    answers[#answers + 1] = job.cancel and 'cancel' or 'kept'
  end
end
return answers
