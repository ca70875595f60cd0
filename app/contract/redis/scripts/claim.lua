-- A worker with a free seat takes the next job of its model and owns it by a fresh token.
-- A job that has lost SUSPECT_AFTER workers is given to a worker that holds nothing else. If only busy ones ask, the
-- first of them keeps it for itself, gets nothing more, and so becomes free.
-- Said again with its token, because the answer was lost, it gives the same attempt again. An attempt that was lost
-- meanwhile uses the token up: nil, and the caller draws another.
-- Where nothing waits, or nothing is to be claimed, the worker is entered as idle, and will be told of the next job.
-- ARGV: model, worker, token, newest record version the worker understands, how many jobs it holds
-- Answers nil, or {id, spec, attempt, failures, traceparent, ms since it was accepted, tenant, task, question, ms that it
-- is watched yet}; task and question are empty of a job that draws.
local model, worker, token, busy = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]) > 0
local queue, at = QUEUE_PREFIX .. model, now()

local function read(id)
  return redis.call('HMGET', JOB .. id, 'spec', 'attempt', 'failures', 'traceparent', 'created_ms', 'tenant', 'task',
    'question', 'watched_ms', 'started_ms', 'webhook_events')
end

local function told(id, job)
  return {id, job[1], job[2], job[3], job[4] or '', at - (job[5] or at), job[6] or '', job[7] or '', job[8] or '',
    math.max(0, (tonumber(job[9]) or 0) - at)}
end

local before = given(worker, token)
if before then return owns(before, token) and told(before, read(before)) or nil end
if redis.call('EXISTS', RQ_SUSPENDED, PAUSED .. model) > 0 or redis.call('EXISTS', QUEUED .. model) == 0 then
  wait_for_word(model, worker, busy)
  return nil
end

local function own(id, tag, is_kept)
  if dequeue(id, model) then
    if tag > tonumber(redis.call('HGET', CLOCK .. model, 'now') or 0) then
      redis.call('HSET', CLOCK .. model, 'now', tag, 'unserved', at)
      redis.call('ZREMRANGEBYSCORE', TURNS .. model, '-inf', tag)
    else
      redis.call('HSET', CLOCK .. model, 'unserved', at)
    end
  end
  local job = read(id)
  job[2] = job[2] + 1
  redis.call('HSET', JOB .. id, 'status', 'running', 'token', token, 'worker', worker, 'claimed_ms', at, 'attempt', job[2],
    'started_ms', job[10] or at)
  if is_kept then redis.call('HDEL', JOB .. id, 'kept_by', 'kept_until') end
  redis.call('ZADD', LEASES, at + LEASE_MS, id)
  rq_started(id, token, worker, queue, at)
  emit(id, 'job.started', '{"attempts":' .. job[2] .. '}', job[11])
  give(worker, token, id)
  return told(id, job)
end

local passed = 0
while passed < 100 do
  local found = redis.call('ZRANGE', QUEUED .. model, passed, passed, 'WITHSCORES')
  if not found[1] then return nil end
  local id = found[1]
  local r = redis.call('HMGET', JOB .. id, 'status', 'model', 'v', 'failures', 'kept_by', 'kept_until')
  local suspect = (tonumber(r[4]) or 0) >= SUSPECT_AFTER
  if r[1] ~= 'queued' or r[2] ~= model then
    dequeue(id, model)
  elseif tonumber(r[3]) > tonumber(ARGV[4]) then
    passed = passed + 1
  elseif not (suspect and busy) then
    return own(id, tonumber(found[2]), r[5])
  elseif r[5] and r[5] ~= worker and tonumber(r[6]) > at then
    passed = passed + 1
  else
    redis.call('HSET', JOB .. id, 'kept_by', worker, 'kept_until', at + LEASE_MS)
    return nil
  end
end
return nil
