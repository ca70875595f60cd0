-- What happens to a job, for every script: it is accepted, queued, given up and over. Stands behind prelude.lua.

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant's turn starts, in virtual time, when its turn before it is
-- paid for, and no earlier than now; so an idle tenant saves up nothing and a thousand jobs delay only their owner. Which
-- of a tenant's jobs takes its turn is decided when the turn comes; the tag of a job says when that will be, as things
-- stand: before whatever it overtakes.
-- `is_first`: nobody waits yet. Answers what belongs into the record: its tag, its place on RQ's list, its standing.
local function enqueue(id, tenant, model, cost, priority, due, is_first)
  if is_first then forget_turns(model) end
  local queue, clock = queue_of(model, priority), read(CLOCK .. model, {'now', 'came', 'popped', 'unserved'})
  if priority == 'batch' then
    clock.now = redis.call('HGET', CLOCK .. queue, 'now')
    if redis.call('EXISTS', NEXT_TURN .. queue) == 0 then redis.call('HDEL', CLOCK .. model, 'owed') end
  end
  local number = (tonumber(clock.came) or 0) + 1
  redis.call('HSET', CLOCK .. model, 'came', number, 'unserved', clock.unserved or now())
  local tag = math.max(tonumber(clock.now) or 0, tonumber(redis.call('ZSCORE', TURNS .. queue, tenant)) or 0)
  redis.call('ZADD', TURNS .. queue, tag + cost, tenant)
  redis.call('ZADD', NEXT_TURN .. queue, 'NX', tag, tenant)
  local stands = standing(tenant, due and WITH_DEADLINE or WITHOUT_DEADLINE, due or 0, number, id)
  redis.call('ZADD', STANDING .. queue, 0, stands)
  if priority == 'batch' then tag = tag + AFTER_INTERACTIVE end
  local overtaken = due and overtaken_by(queue, tenant, stands)
  local its_tag = overtaken and redis.call('ZSCORE', QUEUED .. model, overtaken)
  if its_tag then tag = its_tag - 0.000001 end
  redis.call('ZADD', QUEUED .. model, tag, id)
  tell_a_worker(model, priority ~= 'batch')
  return tag, list_add(id, model, clock.popped), stands
end

-- The last job has left it.
local function forget_queue(model)
  forget_turns(model)
  redis.call('DEL', RQ_QUEUE .. QUEUE_PREFIX .. model)
end

-- A job leaves the queue without a turn. `job`: its standing, tenant, priority and place. Answers how often RQ's list has
-- lost its head by then, nil if the queue is empty.
local function dequeue(id, model, job)
  redis.call('ZREM', QUEUED .. model, id)
  if redis.call('EXISTS', QUEUED .. model) == 0 then return forget_queue(model) end
  local queue = queue_of(model, job.priority)
  if job.standing and redis.call('ZREM', STANDING .. queue, job.standing) == 1
    and not standing_of(queue, job.tenant, '') then
    redis.call('ZREM', NEXT_TURN .. queue, job.tenant)
  end
  local popped = list_remove(id, model, job.place, redis.call('HGET', CLOCK .. model, 'popped'))
  redis.call('HSET', CLOCK .. model, 'popped', popped)
  return popped
end

-- Workers that have the model in memory: of those that were heard of, the ones that do not have to load it. Who has fallen
-- silent is on both lists until another beats.
local function in_memory(model, at)
  local workers = redis.call('ZCOUNT', ALIVE .. model, at - ALIVE_MS, '+inf')
  local loadable = redis.call('HLEN', LOADABLE .. model)
  for _, silent in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. model, '-inf', '(' .. (at - ALIVE_MS))) do
    loadable = loadable - redis.call('HEXISTS', LOADABLE .. model, silent)
  end
  return math.max(0, workers - loadable), workers
end

-- Was a worker heard of lately: while it starts, and with something that it serves?
local function heard_of(worker)
  local starts, serves, at = redis.call('HEXISTS', STARTING, worker) == 1, false, now()
  for _, model in ipairs(redis.call('HKEYS', CARDS)) do
    serves = serves or tonumber(redis.call('ZSCORE', ALIVE .. model, worker) or 0) >= at - ALIVE_MS
  end
  return starts, serves
end

-- This worker serves the model no longer. Answers whether it did.
local function stop_serving(model, worker)
  redis.call('HDEL', LOADABLE .. model, worker)
  redis.call('ZREM', IDLE .. model, worker)
  redis.call('ZREM', IDLE .. FOR_INTERACTIVE .. model, worker)
  if redis.call('GET', TAKING_UP .. model) == worker then redis.call('DEL', TAKING_UP .. model) end
  local served = redis.call('ZREM', ALIVE .. model, worker) == 1
  if served then redis.call('ZADD', SEEN, now(), model) end
  return served
end

-- Objects of an attempt that has no result are nobody's. Later, because a zombie may still be writing.
local function orphan(id, token)
  redis.call('ZADD', ORPHANS, now() + ORPHAN_MS, id .. '/' .. token)
end

-- A job with what decides how it goes on or ends.
local function job_of(id)
  return read(JOB .. id, {'status', 'tenant', 'model', 'token', 'worker', 'attempt', 'step', 'cancel', 'cost', 'seats', 'task',
    'created_ms', 'claimed_ms', 'deadline_ms', 'retention_ms', 'tag', 'standing', 'place', 'priority', 'inputs',
    'webhook_events'})
end

-- Queue an attempt again, at the front: it was paid for, and has waited its turn already.
-- Without a token nobody owns it, so whatever the old owner still says is stale.
-- The lease goes last: a script that breaks half-way leaves one that is judged again, and no job without.
local function requeue(id, job, reason)
  local model = job.model
  rq_ended(id, QUEUE_PREFIX .. model, job.token, job.worker)
  orphan(id, job.token)
  if redis.call('EXISTS', SNAPSHOT .. id) == 1 then redis.call('HSET', SNAPSHOT .. id, 'reached', job.step or 0) end
  local clock = read(CLOCK .. model, {'popped', 'unserved'})
  if not clock.unserved then redis.call('HSET', CLOCK .. model, 'unserved', now()) end
  redis.call('HDEL', JOB .. id, 'token', 'worker', 'standing')
  redis.call('HSET', JOB .. id, 'status', 'queued', 'step', 0, 'stage', '', 'place', list_add(id, model, clock.popped))
  redis.call('ZADD', QUEUED .. model, (tonumber(job.tag) or 0) - BEFORE_ALL, id)
  tell_a_worker(model, job.priority ~= 'batch')
  redis.call('HSET', RQ_JOB .. id, 'status', 'queued', 'worker_name', '')
  emit(id, 'job.restarted', '{"reason":"' .. reason .. '","attempts":' .. job.attempt .. '}', job.webhook_events)
  redis.call('ZREM', LEASES, id)
end

-- Of the pictures that came in and that a job needs (ids, spaces between) one that is gone, or nil.
local function gone_input(inputs)
  for input in string.gmatch(inputs or '', '%S+') do
    if redis.call('EXISTS', INPUT .. input) == 0 then return input end
  end
end

-- Nobody removes them from now on.
local function hold_inputs(id, inputs)
  for input in string.gmatch(inputs or '', '%S+') do redis.call('SADD', INPUT_USES .. input, id) end
end

-- The job is over: they are kept for as long as its record.
local function release_inputs(id, inputs, ends)
  for input in string.gmatch(inputs or '', '%S+') do
    redis.call('SREM', INPUT_USES .. input, id)
    redis.call('ZADD', INPUT_EXPIRY, 'XX', 'GT', ends, input)
  end
end

-- Longer lists of pictures are not gone through: their sum is believed.
local INPUTS_COUNTED = 10000

-- Bytes of the pictures of a tenant that came in, and whether they were counted. Anew only where nobody has yet, or of a
-- list of another length: versions that know of no sum have changed it. Ten thousand keep Redis from all others for long.
local function input_bytes(tenant)
  local list = INPUTS_OF .. tenant
  local length = redis.call('ZCARD', list)
  local sum, counted = string.match(redis.call('HGET', INPUT_BYTES, tenant) or '', '^(%d+) (%d+)$')
  if tonumber(counted) == length or length > INPUTS_COUNTED then return tonumber(sum) or 0, tonumber(counted) == length end
  sum = 0
  for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    sum = sum + (tonumber(redis.call('HGET', INPUT .. id, 'bytes')) or 0)
  end
  if length > 0 then redis.call('HSET', INPUT_BYTES, tenant, string.format('%.0f %d', sum, length)) end
  return sum, true
end

-- nil if the tenant may have so many bytes more, else what it has. `most`: in all; 0 is no bound.
local function too_many_input_bytes(tenant, more, most)
  if tonumber(most) == 0 then return nil end
  local sum = input_bytes(tenant)
  return sum > tonumber(most) - tonumber(more) and sum or nil
end

-- The sum follows a list that has changed already.
local function keep_input_bytes(tenant, sum, is_counted)
  local length = redis.call('ZCARD', INPUTS_OF .. tenant)
  if length == 0 then return redis.call('HDEL', INPUT_BYTES, tenant) end
  redis.call('HSET', INPUT_BYTES, tenant, string.format('%.0f %d', math.max(0, sum), is_counted and length or 0))
end

-- Add to what the tenant has used today: `more` is a table of USAGE_COUNTERS.
local function use(tenant, at, more)
  local day = math.floor(at / 1000 / DAY_SECONDS)
  local before = redis.call('HGET', USAGE .. day, tenant)
  local sums = {string.match(before or '', USAGE_READ)}
  for place, name in ipairs(USAGE_COUNTERS) do sums[place] = (tonumber(sums[place]) or 0) + (more[name] or 0) end
  redis.call('HSET', USAGE .. day, tenant, string.format(USAGE_WRITTEN, unpack(sums)))
  if not before then redis.call('EXPIREAT', USAGE .. day, (day + 1 + USAGE_DAYS) * DAY_SECONDS) end
end

-- The one way a job ends. `fields` are written with the status; the record keeps its token, so that the same word
-- said twice by its owner is recognised. The lease goes last, as in `requeue`. `used` is what the owner says of its work, as `use` takes it.
local function over(id, job, status, data, fields, used)
  local at, tenant = now(), job.tenant
  rq_ended(id, QUEUE_PREFIX .. job.model, job.token, job.worker)
  if job.token and status ~= 'succeeded' then orphan(id, job.token) end
  redis.call('SREM', OPEN .. tenant, id)
  redis.call('ZADD', ENDED .. status .. ':' .. tenant, job.created_ms or at, id)
  redis.call('ZADD', of_task(job.task, status, tenant), job.created_ms or at, id)
  redis.call('DEL', RQ_JOB .. id)
  if redis.call('DEL', SNAPSHOT .. id) == 1 and job.token then
    redis.call('ZADD', SNAPSHOT_OBJECTS, 'XX', at + ORPHAN_MS, id .. '/' .. job.token)
  end
  local expires = at + job.retention_ms
  redis.call('HSET', JOB .. id, 'status', status, 'ended_ms', at, 'expires_ms', expires, unpack(fields))
  redis.call('ZADD', EXPIRY, expires, id)
  release_inputs(id, job.inputs, expires)
  -- Of a job that its caller called off nobody knows whether it would have been met.
  if job.deadline_ms and status ~= 'canceled' then
    local met = status == 'succeeded' and at <= job.created_ms + job.deadline_ms
    redis.call('HINCRBY', DEADLINES .. job.model, met and 'met' or 'missed', 1)
  end
  used = used or {}
  used[status] = 1
  use(tenant, at, used)
  emit(id, 'job.' .. status, data, job.webhook_events)
  redis.call('ZREM', LEASES, id)
end

-- The worker of a running job is gone: queued again, or at its end after too many of them. `because` is a sentence that
-- the worker left, or ''. Answers 'canceled', 'failed' or 'requeued'.
local function owner_lost(id, job, because)
  if job.cancel then
    over(id, job, 'canceled', '{}', {'step', 0})
    return 'canceled'
  end
  if redis.call('HINCRBY', JOB .. id, 'failures', 1) < MAX_ATTEMPTS then
    requeue(id, job, 'worker-lost')
    return 'requeued'
  end
  local detail = 'The job was started ' .. MAX_ATTEMPTS .. ' times and its worker was lost each time.'
  if because ~= '' then detail = detail .. ' The last time: ' .. because end
  local error = '{"slug":"attempts-exhausted","detail":' .. cjson.encode(detail) .. '}'
  over(id, job, 'failed', '{"error":' .. error .. '}', {'error', error})
  redis.call('ZADD', DEAD, now(), id)
  return 'failed'
end

-- A line for whoever asks what operators have changed. The same one, said again because an answer was lost, is one.
local function audit(line)
  local at = now()
  redis.call('ZADD', AUDIT, 'NX', at, line)
  redis.call('ZREMRANGEBYSCORE', AUDIT, '-inf', at - AUDIT_MS)
  redis.call('ZREMRANGEBYRANK', AUDIT, 0, -AUDIT_KEPT - 1)
end

-- Was this line written before? Who says it again changes nothing: another operator may have changed it back since.
local function was_noted(line)
  return redis.call('ZSCORE', AUDIT, line)
end

-- Why there is no room for another job, or false; and how many wait.
local function refusal(tenant, model, queue_limit, tenant_limit)
  local waiting = redis.call('ZCARD', QUEUED .. model)
  if waiting >= tonumber(queue_limit) then return 'queue-full' end
  if redis.call('SCARD', OPEN .. tenant) >= tonumber(tenant_limit) then return 'tenant-full' end
  return false, waiting
end

-- One of fields and values, false if it is not among them.
local function value_of(name, fields)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return false
end

-- The life of a job begins, behind so many that wait. RQ's job hash is written already; `fields` and values of the record
-- are what only the submitter knows. The record is written at once: each further call and line of the log is dearer than a field.
-- Answers when the job began.
local function accept(id, tenant, model, cost, waiting, fields)
  local at, deadline, priority = now(), tonumber(value_of('deadline_ms', fields)), value_of('priority', fields)
  local due = deadline and at + deadline
  local tag, place, stands = enqueue(id, tenant, model, cost, priority, due, waiting == 0)
  redis.call('HSET', JOB .. id, 'id', id, 'tenant', tenant, 'model', model, 'cost', cost, 'status', 'queued',
    'attempt', 0, 'failures', 0, 'step', 0, 'created_ms', at, 'v', RECORD_VERSION, 'tag', tag, 'place', place,
    'standing', stands, unpack(fields))
  redis.call('ZADD', TENANT .. tenant, at, id)
  redis.call('ZADD', of_task(value_of('task', fields), '', tenant), at, id)
  redis.call('SADD', OPEN .. tenant, id)
  emit(id, 'job.queued', '{}', value_of('webhook_events', fields))
  return at
end
