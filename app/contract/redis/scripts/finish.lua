-- The owner's last word: succeeded, failed or canceled, with everything a client will see.
-- ARGV: id, token, status, data of the event (JSON), what the attempt has used (JSON), then fields and values of the record
-- Answers 'done' (also to the same word said again after a broken connection) or 'stale'.
local id, token, status = ARGV[1], ARGV[2], ARGV[3]
local job = job_of(id)
if job.status ~= 'running' or job.token ~= token then
  return job.status == status and job.token == token and 'done' or 'stale'
end
over(id, job, status, ARGV[4], {unpack(ARGV, 6)}, cjson.decode(ARGV[5]))
-- A question takes milliseconds, and says nothing of how long the model draws; neither does a batch job, which may have
-- been put aside, where there are others: the first of those begins anew.
local took, pace, is_batch = now() - job.claimed_ms, PACE .. job.model, job.priority == 'batch'
if status == 'succeeded' and not job.task then
  local before = read(pace, {'of', 'job_ms', 'seat_ms', 'unit_ms'})
  if is_batch and before.of == 'interactive' then return 'done' end
  if not is_batch and before.of == 'batch' then before = {} end
  local function average(name, taken) return (tonumber(before[name]) or taken) * 0.8 + taken * 0.2 end
  redis.call('HSET', pace, 'of', is_batch and 'batch' or 'interactive', 'job_ms', average('job_ms', took),
    'seat_ms', average('seat_ms', took * (tonumber(job.seats) or 1)),
    'unit_ms', average('unit_ms', took / math.max(tonumber(job.cost) or 1, 0.000001)))
end
return 'done'
