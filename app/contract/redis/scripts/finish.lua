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
-- been put aside, where there are others.
local took, pace = now() - job.claimed_ms, PACE .. job.model
if status == 'succeeded' and not job.task and (job.priority ~= 'batch' or redis.call('HEXISTS', pace, 'job_ms') == 0) then
  local before = redis.call('HMGET', pace, 'job_ms', 'seat_ms', 'unit_ms')
  local taken = {took, took * (tonumber(job.seats) or 1), took / math.max(tonumber(job.cost) or 1, 0.000001)}
  for i, value in ipairs(taken) do taken[i] = (tonumber(before[i]) or value) * 0.8 + value * 0.2 end
  redis.call('HSET', pace, 'job_ms', taken[1], 'seat_ms', taken[2], 'unit_ms', taken[3])
end
return 'done'
