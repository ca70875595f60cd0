-- A worker with a free seat takes the next job of its model and owns it by a fresh token.
-- The next is what came back to the queue; else an interactive job, unless those have taken BATCH_CHARGE times what the
-- first batch job costs; else a batch job. Of each kind it is the turn of the tenant whose turn starts first, which takes
-- the job that stands first with it. A deadline that cannot be met any more, as long as such jobs take, gives way to
-- those that can.
-- A job that has lost SUSPECT_AFTER workers is given to a worker that holds nothing else. If only busy ones ask, the
-- first of them that has a free seat keeps it for itself, gets nothing more, and so becomes free.
-- Said again with its token, because the answer was lost, it gives the same attempt again. An attempt that was lost
-- meanwhile uses the token up: nil, and the caller draws another.
-- Who leaves wants only what its token has. Without any the token is used up: what was said with it and comes late, from
-- a connection that broke, takes nothing for a worker that has left.
-- Where nothing waits, or nothing is to be claimed, the worker is entered as idle, and will be told of the next job.
-- ARGV: model, worker, token, newest record version the worker understands, how many jobs it holds, '1' if batch jobs are
-- not wanted, '1' if it is to take nothing new (both may be missing, of an earlier worker)
-- Answers nil, or {id, spec, attempt, failures, traceparent, ms since it was accepted, tenant, task, question, ms that it
-- is watched yet, priority, deadline in ms after it was accepted}; task and question are empty of a job that draws, the
-- last two of one that said nothing of it.
local model, worker, token, busy, hurried = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]) > 0, ARGV[6] == '1'
local batch, at, waits_as = queue_of(model, 'batch'), now(), hurried and FOR_INTERACTIVE .. model or model
local MOST, NO_JOB = 100, '-'

-- Everything that a claim wants of a job.
local function claimable(id)
  return read(JOB .. id, {'status', 'model', 'v', 'failures', 'kept_by', 'kept_until', 'tenant', 'priority', 'cost',
    'standing', 'place', 'spec', 'attempt', 'traceparent', 'created_ms', 'started_ms', 'task', 'question', 'watched_ms',
    'webhook_events', 'deadline_ms'})
end

local function told(id, job)
  return {id, job.spec, job.attempt, job.failures, job.traceparent or '', at - (job.created_ms or at), job.tenant or '',
    job.task or '', job.question or '', math.max(0, (tonumber(job.watched_ms) or 0) - at), job.priority or '',
    job.deadline_ms or ''}
end

-- Who has no free seat any more is told of no batch job: it would take none, and nobody else would hear of it.
local function wait()
  if hurried then redis.call('ZREM', IDLE .. model, worker) end
  wait_for_word(waits_as, worker, busy)
end

local before = given(worker, token)
if before then return owns(before, token) and told(before, claimable(before)) or nil end
if ARGV[7] == '1' then
  give(worker, token, NO_JOB)
  return nil
end
local first = redis.call('ZRANGE', QUEUED .. model, 0, 0, 'WITHSCORES')
if not first[1] or redis.call('EXISTS', RQ_SUSPENDED, PAUSED .. model) > 0 then
  wait()
  return nil
end

local waiting, batch_jobs = redis.call('ZCARD', QUEUED .. model), redis.call('ZCARD', STANDING .. batch)
local lack_standing = waiting > redis.call('ZCARD', STANDING .. model) + batch_jobs
local clock = read(CLOCK .. model, {'now', 'popped', 'owed'})

-- The step of the snapshot that the job goes on from, if it has one. Of one that has lost SUSPECT_AFTER workers it may be
-- what kills them: it starts over.
local function resumable(id, failures)
  if failures >= SUSPECT_AFTER then redis.call('DEL', SNAPSHOT .. id) end
  local step = redis.call('HGET', SNAPSHOT .. id, 'step')
  redis.call('HSET', JOB .. id, 'step', step or 0, 'resumed_at_step', step or 0)
  return step
end

-- A tenant's turn is taken: its next one starts when this one is paid for.
local function pay(turn)
  local tenant = turn.job.tenant
  redis.call('ZREM', STANDING .. turn.queue, turn.job.standing)
  if turn.is_last then
    redis.call('ZREM', NEXT_TURN .. turn.queue, tenant)
  else
    redis.call('ZADD', NEXT_TURN .. turn.queue, 'XX', turn.starts + turn.job.cost, tenant)
  end
  if turn.overtakes then redis.call('HINCRBY', CLOCK .. model, 'overtakes:' .. tenant, 1) end
  if turn.overtakes == false then redis.call('HDEL', CLOCK .. model, 'overtakes:' .. tenant) end
end

-- The virtual time of a queue is that of the turn which was taken last.
local function set_clock(queue, to)
  local before = clock.now
  if queue == batch then before = redis.call('HGET', CLOCK .. batch, 'now') end
  if to > (tonumber(before) or 0) then
    redis.call('HSET', CLOCK .. queue, 'now', to)
    redis.call('ZREMRANGEBYSCORE', TURNS .. queue, '-inf', to)
  end
end

local function leave_queue(turn)
  waiting = waiting - redis.call('ZREM', QUEUED .. model, turn.id)
  if waiting == 0 then return forget_queue(model) end
  if turn.has_standing then pay(turn) end
  set_clock(turn.queue, turn.starts)
  local popped = list_remove(turn.id, model, turn.job.place, clock.popped)
  redis.call('HSET', CLOCK .. model, 'popped', popped, 'unserved', at)
end

local function own(turn)
  leave_queue(turn)
  local id, job = turn.id, turn.job
  job.attempt = job.attempt + 1
  redis.call('HSET', JOB .. id, 'status', 'running', 'token', token, 'worker', worker, 'claimed_ms', at,
    'attempt', job.attempt, 'started_ms', job.started_ms or at, 'standing', '')
  if job.kept_by then redis.call('HDEL', JOB .. id, 'kept_by', 'kept_until') end
  redis.call('ZADD', LEASES, at + LEASE_MS, id)
  rq_started(id, token, worker, QUEUE_PREFIX .. model, at)
  local from = job.attempt > 1 and resumable(id, tonumber(job.failures) or 0)
  local resumed = from and ',"resumed_at_step":' .. from or ''
  emit(id, 'job.started', '{"attempts":' .. job.attempt .. resumed .. '}', job.webhook_events)
  give(worker, token, id)
  return told(id, job)
end

-- May this worker take what waits? 'yes', 'gone' (it is not queued here), 'others' (not it), or 'kept' (when it holds
-- nothing else); and what was read.
local function may_take(id)
  local job = claimable(id)
  job.cost = tonumber(job.cost) or 0
  if job.status ~= 'queued' or job.model ~= model then return 'gone', job end
  if tonumber(job.v) > tonumber(ARGV[4]) then return 'others', job end
  if not busy or (tonumber(job.failures) or 0) < SUSPECT_AFTER then return 'yes', job end
  -- A full one would have to end those as well that it has put aside.
  if hurried or job.kept_by and job.kept_by ~= worker and tonumber(job.kept_until) > at then return 'others', job end
  return 'kept', job
end

local function keep(id)
  redis.call('HSET', JOB .. id, 'kept_by', worker, 'kept_until', at + LEASE_MS)
end

-- Its id is on the queue, and it is not.
local function drop(id, job)
  waiting = waiting - 1
  clock.popped = dequeue(id, model, job)
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
  while first and first.lane == WITH_DEADLINE and looked < MOST and not in_time(first.id, first.due) do
    looked = looked + 1
    local behind = standing(tenant, WITHOUT_DEADLINE, 0, first.number, first.id)
    redis.call('ZREM', STANDING .. turns, first.text)
    redis.call('ZADD', STANDING .. turns, 0, behind)
    if redis.call('EXISTS', JOB .. first.id) == 1 then redis.call('HSET', JOB .. first.id, 'standing', behind) end
    first = standing_of(turns, tenant, '', skipped)
  end
  if not first or skipped > 0 or first.lane == WITHOUT_DEADLINE then return first end
  local oldest = standing_of(turns, tenant, WITHOUT_DEADLINE)
  if not oldest or oldest.number > first.number then return first end
  local overtakes = tonumber(redis.call('HGET', CLOCK .. model, 'overtakes:' .. tenant) or 0)
  if overtakes < OVERTAKES then return first, true end
  oldest.is_alone = false
  return oldest, false
end

-- How many batch jobs lie at the head of those that came back. A full worker asks each second, and there may be a
-- hundred: it reads no more of them.
local function batch_jobs_that_came_back()
  local back = redis.call('ZRANGEBYSCORE', QUEUED .. model, '-inf', '(' .. -BEFORE_ALL / 2, 'LIMIT', 0, MOST)
  for i, id in ipairs(back) do
    if field(id, 'priority') ~= 'batch' then return i - 1 end
  end
  return #back
end

-- Of those that came back, or were queued by an earlier version, the first that this worker may take, as a turn; `true`
-- if it gets nothing, since it keeps one.
local function without_standing()
  local passed = hurried and batch_jobs_that_came_back() or 0
  for _ = passed + 1, MOST do
    local found = redis.call('ZRANGE', QUEUED .. model, passed, passed, 'WITHSCORES')
    if not found[1] then return nil end
    local verdict, job = may_take(found[1])
    if verdict == 'gone' then
      drop(found[1], job)
    elseif job.standing and redis.call('ZSCORE', STANDING .. queue_of(model, job.priority), job.standing) then
      if not lack_standing then return nil end
      passed = passed + 1
    elseif verdict == 'kept' then
      keep(found[1])
      return true
    elseif verdict == 'yes' and not (hurried and job.priority == 'batch') then
      return {id = found[1], job = job, queue = model, starts = tonumber(found[2])}
    else
      passed = passed + 1
    end
  end
end

-- The turn that starts first, in one of the two queues; nil without one that this worker may take, `true` if it keeps one.
local function turn_of(queue)
  local tenants, skipped = 0, 0
  while looked < MOST do
    looked = looked + 1
    local turn = redis.call('ZRANGE', NEXT_TURN .. queue, tenants, tenants, 'WITHSCORES')
    if not turn[1] then return nil end
    local first, overtakes = first_of(queue, turn[1], skipped)
    if not first and skipped == 0 then
      redis.call('ZREM', NEXT_TURN .. queue, turn[1])
    elseif not first then
      tenants, skipped = tenants + 1, 0
    else
      local verdict, job = may_take(first.id)
      if verdict == 'gone' or job.standing ~= first.text then
        redis.call('ZREM', STANDING .. queue, first.text)
        if verdict == 'gone' and redis.call('ZSCORE', QUEUED .. model, first.id) then drop(first.id, job) end
      elseif verdict == 'others' then
        skipped = skipped + 1
      elseif verdict == 'kept' then
        keep(first.id)
        return true
      else
        return {id = first.id, job = job, queue = queue, starts = tonumber(turn[2]), has_standing = true,
          is_last = first.is_alone, overtakes = overtakes}
      end
    end
  end
end

-- What came back lies before everything. What has left with a standing, through an earlier version, may hide what was
-- queued by one: then it is found where nothing else is.
local looks_first = lack_standing or tonumber(first[2]) < -BEFORE_ALL / 2
local old = looks_first and without_standing() or nil
if old == true then return nil end
if old and old.starts < (tonumber(clock.now) or 0) then return own(old) end

local owed = batch_jobs > 0 and not hurried and tonumber(clock.owed) or 0
local turn = owed > 0 and turn_of(batch) or nil
if turn == true then return nil end
if turn and owed >= BATCH_CHARGE * turn.job.cost then
  redis.call('HINCRBYFLOAT', CLOCK .. model, 'owed', -BATCH_CHARGE * turn.job.cost)
  return own(turn)
end

turn = turn_of(model)
if turn == true then return nil end
if old and (not turn or old.starts <= turn.starts) then return own(old) end
if turn then
  if batch_jobs > 0 then redis.call('HINCRBYFLOAT', CLOCK .. model, 'owed', turn.job.cost) end
  return own(turn)
end

turn = batch_jobs > 0 and not hurried and turn_of(batch) or not looks_first and without_standing()
if not turn and hurried then wait() end
if not turn or turn == true then return nil end
return own(turn)
