-- A worker with a free seat takes the next job of its model and owns it by a fresh token.
-- The next is what came back to the queue; else an interactive job, unless those have taken BATCH_CHARGE times what the
-- first batch job costs; else a batch job. Of each kind it is the turn of the tenant whose turn starts first, which takes
-- the job that stands first with it. A deadline that cannot be met any more, as long as such jobs take, gives way to
-- those that can.
-- A job that has lost SUSPECT_AFTER workers is given to a worker that holds nothing else. If only busy ones ask, the
-- first of them keeps it for itself, gets nothing more, and so becomes free.
-- Said again with its token, because the answer was lost, it gives the same attempt again. An attempt that was lost
-- meanwhile uses the token up: nil, and the caller draws another.
-- Where nothing waits, or nothing is to be claimed, the worker is entered as idle, and will be told of the next job.
-- ARGV: model, worker, token, newest record version the worker understands, how many jobs it holds, '1' if batch jobs are
-- not wanted
-- Answers nil, or {id, spec, attempt, failures, traceparent, ms since it was accepted, tenant, task, question, ms that it
-- is watched yet, priority, deadline in ms after it was accepted}; task and question are empty of a job that draws, the
-- last two of one that said nothing of it.
local model, worker, token, busy, hurried = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]) > 0, ARGV[6] == '1'
local queue, at, waits_as = QUEUE_PREFIX .. model, now(), hurried and 'interactive:' .. model or model
local MOST = 100

local function read(id)
  return redis.call('HMGET', JOB .. id, 'spec', 'attempt', 'failures', 'traceparent', 'created_ms', 'tenant', 'task',
    'question', 'watched_ms', 'started_ms', 'webhook_events',
    'priority', 'deadline_ms')
end

local function told(id, job)
  return {id, job[1], job[2], job[3], job[4] or '', at - (job[5] or at), job[6] or '', job[7] or '', job[8] or '',
    math.max(0, (tonumber(job[9]) or 0) - at), job[12] or '', job[13] or ''}
end

local before = given(worker, token)
if before then return owns(before, token) and told(before, read(before)) or nil end
if redis.call('EXISTS', RQ_SUSPENDED, PAUSED .. model) > 0 or redis.call('EXISTS', QUEUED .. model) == 0 then
  wait_for_word(waits_as, worker, busy)
  return nil
end

-- The step of the snapshot that the job goes on from, if it has one. Of one that has lost SUSPECT_AFTER workers it may be
-- what kills them: it starts over.
local function resumable(id, failures)
  if failures >= SUSPECT_AFTER then redis.call('DEL', SNAPSHOT .. id) end
  local step = redis.call('HGET', SNAPSHOT .. id, 'step')
  redis.call('HSET', JOB .. id, 'step', step or 0, 'resumed_at_step', step or 0)
  return step
end

local function own(id, tag, turns, is_kept)
  if dequeue(id, model) then
    if tag > tonumber(redis.call('HGET', CLOCK .. turns, 'now') or 0) then
      redis.call('HSET', CLOCK .. turns, 'now', tag)
      redis.call('ZREMRANGEBYSCORE', TURNS .. turns, '-inf', tag)
    end
    redis.call('HSET', CLOCK .. model, 'unserved', at)
  end
  local job = read(id)
  job[2] = job[2] + 1
  redis.call('HSET', JOB .. id, 'status', 'running', 'token', token, 'worker', worker, 'claimed_ms', at, 'attempt', job[2],
    'started_ms', job[10] or at)
  redis.call('HDEL', JOB .. id, 'standing', unpack(is_kept and {'kept_by', 'kept_until'} or {}))
  redis.call('ZADD', LEASES, at + LEASE_MS, id)
  rq_started(id, token, worker, queue, at)
  local from = job[2] > 1 and resumable(id, tonumber(job[3]) or 0)
  emit(id, 'job.started', '{"attempts":' .. job[2] .. (from and ',"resumed_at_step":' .. from or '') .. '}', job[11])
  give(worker, token, id)
  return told(id, job)
end

-- May this worker take what waits? 'yes', 'gone' (it is not queued here), 'others' (not it), or 'kept' (when it holds
-- nothing else); and what was read.
local function may_take(id)
  local r = redis.call('HMGET', JOB .. id, 'status', 'model', 'v', 'failures', 'kept_by', 'kept_until', 'standing',
    'priority', 'cost', 'tenant')
  local job = {standing = r[7], priority = r[8], cost = tonumber(r[9]) or 0, tenant = r[10], is_kept = r[5]}
  local suspect = (tonumber(r[4]) or 0) >= SUSPECT_AFTER
  if r[1] ~= 'queued' or r[2] ~= model then return 'gone', job end
  if tonumber(r[3]) > tonumber(ARGV[4]) then return 'others', job end
  if not (suspect and busy) then return 'yes', job end
  if r[5] and r[5] ~= worker and tonumber(r[6]) > at then return 'others', job end
  return 'kept', job
end

local function keep(id)
  redis.call('HSET', JOB .. id, 'kept_by', worker, 'kept_until', at + LEASE_MS)
end

-- Can a job that costs so much still be finished by `due`?
local function in_time(id, due)
  local unit = tonumber(redis.call('HGET', PACE .. model, 'unit_ms') or 0)
  return at + unit * (tonumber(field(id, 'cost')) or 0) <= due
end

local looked = 0

-- The standing whose turn it is of a tenant's, or nil; `skipped` of them are for others. Second answer: true if it
-- overtakes one that has waited for longer, false if it has been overtaken often enough.
local function first_of(turns, tenant, skipped)
  local first = standing_of(turns, tenant, '', skipped)
  while first and first.lane == 'a' and looked < MOST and not in_time(first.id, first.due) do
    looked = looked + 1
    local behind = standing(tenant, 'b', 0, first.number, first.id)
    redis.call('ZREM', STANDING .. turns, first.text)
    redis.call('ZADD', STANDING .. turns, 0, behind)
    if redis.call('EXISTS', JOB .. first.id) == 1 then redis.call('HSET', JOB .. first.id, 'standing', behind) end
    first = standing_of(turns, tenant, '', skipped)
  end
  if not first or skipped > 0 or first.lane == 'b' then return first end
  local oldest = standing_of(turns, tenant, 'b')
  if not oldest or oldest.number > first.number then return first end
  local overtakes = tonumber(redis.call('HGET', CLOCK .. model, 'overtakes:' .. tenant) or 0)
  if overtakes >= OVERTAKES then return oldest, false end
  return first, true
end

-- Of those that came back, or were queued by an earlier version, the first that this worker may take: id and tag. `true`
-- in their place: it gets nothing, since it keeps one.
local function without_standing()
  local passed, others = 0, nil
  -- Are there more than those that have one?
  local function are_others()
    if others == nil then
      others = redis.call('ZCARD', QUEUED .. model) > redis.call('ZCARD', STANDING .. model)
        + redis.call('ZCARD', STANDING .. queue_of(model, 'batch'))
    end
    return others
  end
  for _ = 1, MOST do
    local found = redis.call('ZRANGE', QUEUED .. model, passed, passed, 'WITHSCORES')
    if not found[1] then return nil end
    local verdict, job = may_take(found[1])
    if verdict == 'gone' then
      dequeue(found[1], model)
    elseif job.standing and redis.call('ZSCORE', STANDING .. queue_of(model, job.priority), job.standing) then
      if not are_others() then return nil end
      passed = passed + 1
    elseif verdict == 'kept' then
      keep(found[1])
      return true
    elseif verdict == 'yes' and not (hurried and job.priority == 'batch') then
      return found[1], tonumber(found[2]), job.is_kept
    else
      passed = passed + 1
    end
  end
end

-- The turn that starts first, in one of the two queues: {id, job, starts, overtakes}; nil without one that this worker
-- may take, `true` if it keeps one.
local function turn_of(turns)
  local tenants, skipped = 0, 0
  while looked < MOST do
    looked = looked + 1
    local turn = redis.call('ZRANGE', NEXT_TURN .. turns, tenants, tenants, 'WITHSCORES')
    if not turn[1] then return nil end
    local first, overtakes = first_of(turns, turn[1], skipped)
    if not first and skipped == 0 then
      redis.call('ZREM', NEXT_TURN .. turns, turn[1])
    elseif not first then
      tenants, skipped = tenants + 1, 0
    else
      local verdict, job = may_take(first.id)
      if verdict == 'gone' or job.standing ~= first.text then
        redis.call('ZREM', STANDING .. turns, first.text)
        if verdict == 'gone' and redis.call('ZSCORE', QUEUED .. model, first.id) then dequeue(first.id, model) end
      elseif verdict == 'others' then
        skipped = skipped + 1
      elseif verdict == 'kept' then
        keep(first.id)
        return true
      else
        return {id = first.id, job = job, starts = tonumber(turn[2]), overtakes = overtakes}
      end
    end
  end
end

local function take(turn, turns)
  local counter = 'overtakes:' .. turn.job.tenant
  if turn.overtakes then redis.call('HINCRBY', CLOCK .. model, counter, 1) end
  if turn.overtakes == false then redis.call('HDEL', CLOCK .. model, counter) end
  redis.call('ZADD', NEXT_TURN .. turns, 'XX', turn.starts + turn.job.cost, turn.job.tenant)
  return own(turn.id, turn.starts, turns, turn.job.is_kept)
end

local id, tag, is_kept = without_standing()
if id == true then return nil end
if id and tag < tonumber(redis.call('HGET', CLOCK .. model, 'now') or 0) then return own(id, tag, model, is_kept) end

local batch = queue_of(model, 'batch')
local waits = redis.call('EXISTS', NEXT_TURN .. batch) == 1
local owed = waits and not hurried and tonumber(redis.call('HGET', CLOCK .. model, 'owed') or 0) or 0
local turn = owed > 0 and turn_of(batch) or nil
if turn == true then return nil end
if turn and owed >= BATCH_CHARGE * turn.job.cost then
  redis.call('HINCRBYFLOAT', CLOCK .. model, 'owed', -BATCH_CHARGE * turn.job.cost)
  return take(turn, batch)
end

turn = turn_of(model)
if turn == true then return nil end
if id and (not turn or tag <= turn.starts) then return own(id, tag, model, is_kept) end
if turn then
  if waits then redis.call('HINCRBYFLOAT', CLOCK .. model, 'owed', turn.job.cost) end
  return take(turn, model)
end

turn = waits and not hurried and turn_of(batch)
if not turn and hurried then wait_for_word(waits_as, worker, busy) end
if not turn or turn == true then return nil end
return take(turn, batch)
