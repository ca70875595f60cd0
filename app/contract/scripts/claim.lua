-- A worker with a free seat takes the next job of its model and owns it by a fresh token.
-- RQ's list only carries ids: one that is no longer queued (canceled, doubled, forgotten) is dropped here.
-- ARGV: model, worker, token, newest record version the worker understands
-- Answers nil, or {id, spec, attempt, failures, traceparent}.
local model, worker, token = ARGV[1], ARGV[2], ARGV[3]
local queue = QUEUE_PREFIX .. model
if redis.call('EXISTS', RQ_SUSPENDED) == 1 then return nil end

for _ = 1, 100 do
  local id = redis.call('LPOP', RQ_QUEUE .. queue)
  if not id then return nil end
  local r = redis.call('HMGET', JOB .. id, 'status', 'v', 'model')
  if r[1] == 'queued' and r[3] == model then
    if tonumber(r[2]) > tonumber(ARGV[4]) then
      redis.call('RPUSH', RQ_QUEUE .. queue, id)
      return nil
    end
    local at = now()
    local attempt = redis.call('HINCRBY', JOB .. id, 'attempt', 1)
    redis.call('HSETNX', JOB .. id, 'started_ms', at)
    redis.call('HSET', JOB .. id, 'status', 'running', 'token', token, 'worker', worker, 'claimed_ms', at)
    redis.call('ZREM', QUEUED .. model, id)
    redis.call('ZADD', LEASES, at + LEASE_MS, id)
    rq_started(id, token, worker, queue, at)
    emit(id, 'job.started', '{"attempts":' .. attempt .. '}')
    local job = redis.call('HMGET', JOB .. id, 'spec', 'failures', 'traceparent')
    return {id, job[1], attempt, job[2], job[3] or ''}
  end
end
return nil
