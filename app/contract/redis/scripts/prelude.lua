-- What every script shares. keys.py writes its names above this line as locals.
-- Time is Redis time: hosts disagree about theirs.
-- A call costs more than a field, and a write more than a read, since it goes into the log: what several functions need
-- of a record is read once and handed on.

local moment

-- In ms. A script takes no time.
local function now()
  if not moment then
    local t = redis.call('TIME')
    moment = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return moment
end

local function field(id, name)
  return redis.call('HGET', JOB .. id, name)
end

-- A job as readers see it: {fields and values, how many are claimed before it or false}. No fields: there is none.
-- `brief`: without its result, which may have a hundred thousand bytes.
local function seen(id, brief)
  local r = redis.call('HMGET', JOB .. id, 'status', 'model')
  local position = r[1] == 'queued' and redis.call('ZRANK', QUEUED .. r[2], id)
  local fields = redis.call('HGETALL', JOB .. id)
  for i = #fields - 1, 1, -2 do
    if brief and fields[i] == 'result' then
      table.remove(fields, i + 1)
      table.remove(fields, i)
    end
  end
  return {fields, position}
end

-- Of a sorted set by time, newest first, what comes after a place (a moment, and an id of that moment): at most n ids,
-- each with its moment behind it.
local function after(key, moment, last, n)
  local found, offset, size = {}, 0, 2 * tonumber(n)
  local at = moment ~= '+inf' and tonumber(moment)
  while #found < size do
    local some = redis.call('ZREVRANGEBYSCORE', key, moment, '-inf', 'WITHSCORES', 'LIMIT', offset, n)
    if #some == 0 then break end
    offset = offset + #some / 2
    for i = 1, #some, 2 do
      if #found < size and (tonumber(some[i + 1]) ~= at or some[i] < last) then
        found[#found + 1], found[#found + 2] = some[i], some[i + 1]
      end
    end
  end
  return found
end

-- Everything that a job may be asked for.
local TASKS = {'draw', 'score', 'embed'}

-- Where the jobs of a tenant are listed that were asked for a task: all, or those that ended so.
local function of_task(task, status, tenant)
  return OF_TASK .. (task or 'draw') .. ':' .. status .. ':' .. tenant
end

-- Does this token still own the job? A stale token must change nothing.
local function owns(id, token)
  local r = redis.call('HMGET', JOB .. id, 'status', 'token')
  return r[1] == 'running' and r[2] == token
end

-- A caller draws the token of what it takes, and asks with the same one until it has an answer: if the answer was lost,
-- the same token gets the same again. Answers what this token was given, or nil.
local function given(taker, token)
  local before, what = string.match(redis.call('GET', TAKEN .. taker) or '', '^(%S+) (%S+)$')
  return before == token and what or nil
end

local function give(taker, token, what)
  redis.call('SET', TAKEN .. taker, token .. ' ' .. what, 'EX', TAKEN_SECONDS)
end

-- The job of an idempotency key, {'replayed', id, what `seen` says} or {'conflict', id}; nil for a new key.
local function replay(key, body)
  local id, its_body = string.match(redis.call('GET', key) or '', '^(%S+) (%S+)$')
  if not id then return nil end
  if its_body ~= body then return {'conflict', id} end
  return {'replayed', id, seen(id)}
end

-- A sliding window of two counters, the older one weighed by how much of it is still inside. Takes `cost` if there is
-- room for it. Answers {1 or 0, what is left, ms until the window moves on or, after a 0, until the cost fits}.
local function charge(counter, allowed, cost)
  local key, at = LIMITS .. counter, now()
  local r = redis.call('HMGET', key, 'began', 'used', 'before')
  local began, used, before = tonumber(r[1]) or at, tonumber(r[2]) or 0, tonumber(r[3]) or 0
  local passed = math.floor((at - began) / LIMIT_WINDOW_MS)
  if passed == 1 then
    began, used, before = began + LIMIT_WINDOW_MS, 0, used
  elseif passed ~= 0 then
    began, used, before = at, 0, 0
  end
  local left = allowed - used - before * (1 - (at - began) / LIMIT_WINDOW_MS)
  if cost <= left then
    redis.call('HSET', key, 'began', began, 'used', used + cost, 'before', before)
    redis.call('PEXPIRE', key, 2 * LIMIT_WINDOW_MS)
    return {1, math.floor(left - cost), began + LIMIT_WINDOW_MS - at}
  end
  local room, windows = allowed - cost, 0
  if room >= used then windows = 1 - (room - used) / before else windows = 2 - room / used end
  return {0, math.max(0, math.floor(left)), math.ceil(began + windows * LIMIT_WINDOW_MS - at)}
end

-- What is counted of a job's cost.
local function whole(cost)
  return math.max(1, math.ceil(cost))
end

-- Does the job whose record lies at `key` still owe a webhook?
local function owes(id, key)
  local r = redis.call('HMGET', key, 'webhook_events', 'attempt')
  for _, event in ipairs(r[1] and cjson.decode(r[1]) or {}) do
    for attempt = 0, tonumber(r[2]) or 0 do
      if redis.call('ZSCORE', OUTBOX, id .. '/' .. event .. '/' .. attempt) then return true end
    end
  end
  return false
end

-- Append a fact to the job's stream and, if its webhook asked for it, to the outbox. `wanted`: its webhook's events, false
-- for none; read here if it is not given.
local function emit(id, event, data, wanted)
  redis.call('XADD', EVENTS .. id, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'data', data)
  if wanted == nil then wanted = field(id, 'webhook_events') end
  if wanted and string.find(wanted, '"' .. event .. '"', 1, true) then
    redis.call('ZADD', OUTBOX, 'NX', now(), id .. '/' .. event .. '/' .. (field(id, 'attempt') or '0'))
  end
end

-- RQ's view of one attempt: an execution whose id is our token, on the list of its worker, which the worker's own beats
-- keep, and on that of the queue.
local function rq_started(id, token, worker, queue, at)
  local seconds, execution = at / 1000, id .. ':' .. token
  local ends = seconds + RQ_TTL_SECONDS
  redis.call('HSET', RQ_EXECUTION .. execution, 'id', token, 'job_id', id, 'worker_name', worker,
    'created_at', seconds, 'last_heartbeat', seconds)
  redis.call('EXPIRE', RQ_EXECUTION .. execution, RQ_TTL_SECONDS)
  redis.call('ZADD', RQ_STARTED .. queue, ends, execution)
  redis.call('SADD', RQ_WORKER .. worker .. ':executions', execution)
  redis.call('HSET', RQ_JOB .. id, 'status', 'started', 'worker_name', worker)
end

-- `token` and `worker` are the record's: false where it has none.
local function rq_ended(id, queue, token, worker)
  if not token then return end
  local execution = id .. ':' .. token
  redis.call('DEL', RQ_EXECUTION .. execution)
  redis.call('ZREM', RQ_STARTED .. queue, execution)
  if worker then redis.call('SREM', RQ_WORKER .. worker .. ':executions', execution) end
end

-- RQ's list shows which ids wait; the order is QUEUED's. A job knows its place on the list, so that taking it off costs
-- the same however long the list is: the first id moves into the gap, and the list loses its head.
-- Answers the place, which the caller writes into the record, with what else it has to write there.
local function list_add(id, model)
  local length = redis.call('RPUSH', RQ_QUEUE .. QUEUE_PREFIX .. model, id)
  local clock = redis.call('HMGET', CLOCK .. model, 'popped', 'unserved')
  if not clock[2] then redis.call('HSET', CLOCK .. model, 'unserved', now()) end
  if length == 1 then
    redis.call('SADD', MODELS_QUEUED, model)
    redis.call('SADD', RQ_QUEUES, RQ_QUEUE .. QUEUE_PREFIX .. model)
  end
  return (clock[1] or 0) + length - 1
end

local function list_remove(id, model)
  local list = RQ_QUEUE .. QUEUE_PREFIX .. model
  local first = redis.call('LINDEX', list, 0)
  if first ~= id then
    local place = field(id, 'place')
    local index = place and place - (redis.call('HGET', CLOCK .. model, 'popped') or 0)
    if not index or index < 0 or redis.call('LINDEX', list, index) ~= id then
      -- A foreign hand moved the list. The reaper will number it again.
      return redis.call('LREM', list, 1, id)
    end
    redis.call('LSET', list, index, first)
    if redis.call('EXISTS', JOB .. first) == 1 then redis.call('HSET', JOB .. first, 'place', place) end
  end
  redis.call('LPOP', list)
  redis.call('HINCRBY', CLOCK .. model, 'popped', 1)
end

-- A worker has a free seat and found nothing to claim: it is told of the next job. With nothing in hand it comes before
-- those that draw already.
local function wait_for_word(model, worker, is_busy)
  local at, entered = now(), redis.call('ZSCORE', IDLE .. model, worker)
  if is_busy then at = at - 1000 end
  if not entered or tonumber(entered) < at - IDLE_AGAIN_MS then redis.call('ZADD', IDLE .. model, at, worker) end
end

-- There is a job of the model: one idle worker is told, by a key on which it alone blocks. A thousand that block on one
-- key cost Redis milliseconds each time. No more than a hint: who hears it asks, who hears nothing asks after IDLE_SECONDS.
-- Answers whether there was one.
local function tell_a_worker(model)
  local idle = redis.call('ZPOPMAX', IDLE .. model)
  if not idle[1] then return false end
  if tonumber(idle[2]) < now() - IDLE_KEPT_MS then
    -- The latest of all: nobody that is entered lives.
    redis.call('DEL', IDLE .. model)
    return false
  end
  redis.call('ZADD', WORD .. idle[1], 0, model)
  redis.call('PEXPIRE', WORD .. idle[1], WORD_MS)
  return true
end

-- Start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant's turn starts, in virtual time, when its turn before it is
-- paid for, and no earlier than now; so an idle tenant saves up nothing and a thousand jobs delay only their owner. Which
-- of a tenant's jobs takes its turn is decided when the turn comes; the tag of a job says when that will be, as things
-- stand: before whatever it overtakes.
-- Answers what belongs into the record: its tag, its place on RQ's list, its standing.
local function enqueue(id, tenant, model, cost, priority, due)
  if redis.call('EXISTS', QUEUED .. model) == 0 then forget_turns(model) end
  local queue = queue_of(model, priority)
  if priority == 'batch' and redis.call('EXISTS', NEXT_TURN .. queue) == 0 then redis.call('HDEL', CLOCK .. model, 'owed') end
  local clock = tonumber(redis.call('HGET', CLOCK .. queue, 'now') or 0)
  local tag = math.max(clock, tonumber(redis.call('ZSCORE', TURNS .. queue, tenant) or 0))
  redis.call('ZADD', TURNS .. queue, tag + cost, tenant)
  redis.call('ZADD', NEXT_TURN .. queue, 'NX', tag, tenant)
  local number = redis.call('HINCRBY', CLOCK .. model, 'came', 1)
  local stands = standing(tenant, due and 'a' or 'b', due or 0, number, id)
  redis.call('ZADD', STANDING .. queue, 0, stands)
  if priority == 'batch' then tag = tag + AFTER_INTERACTIVE end
  local behind = redis.call('ZRANGEBYLEX', STANDING .. queue, '(' .. stands, '(' .. tenant .. '!', 'LIMIT', 0, 1)
  local its_tag = behind[1] and redis.call('ZSCORE', QUEUED .. model, read_standing(behind[1]).id)
  if its_tag then tag = its_tag - 0.000001 end
  redis.call('ZADD', QUEUED .. model, tag, id)
  tell_a_worker(model)
  return tag, list_add(id, model), stands
end

-- Answers whether others wait.
local function dequeue(id, model)
  redis.call('ZREM', QUEUED .. model, id)
  local r = redis.call('HMGET', JOB .. id, 'standing', 'tenant', 'priority')
  local queue, others = queue_of(model, r[3]), redis.call('EXISTS', QUEUED .. model) == 1
  if others then
    if r[1] and redis.call('ZREM', STANDING .. queue, r[1]) == 1 and not standing_of(queue, r[2], '') then
      redis.call('ZREM', NEXT_TURN .. queue, r[2])
    end
    list_remove(id, model)
  else
    forget_turns(model)
    redis.call('DEL', RQ_QUEUE .. QUEUE_PREFIX .. model)
  end
  return others
end

-- Workers that have the model in memory: of those that were heard of, the ones that do not have to load it.
local function in_memory(model, at)
  local workers = redis.call('ZCOUNT', ALIVE .. model, at - ALIVE_MS, '+inf')
  return math.max(0, workers - redis.call('HLEN', LOADABLE .. model)), workers
end

-- This worker serves the model no longer. Answers whether it did.
local function stop_serving(model, worker)
  redis.call('HDEL', LOADABLE .. model, worker)
  redis.call('ZREM', IDLE .. model, worker)
  if redis.call('GET', TAKING_UP .. model) == worker then redis.call('DEL', TAKING_UP .. model) end
  local served = redis.call('ZREM', ALIVE .. model, worker) == 1
  if served then redis.call('ZADD', SEEN, now(), model) end
  return served
end

-- Objects of an attempt that has no result are nobody's. Later, because a zombie may still be writing.
local function orphan(id, token)
  redis.call('ZADD', ORPHANS, now() + ORPHAN_MS, id .. '/' .. token)
end

-- Queue an attempt again, at the front: it was paid for, and has waited its turn already.
-- Without a token nobody owns it, so whatever the old owner still says is stale.
-- The lease goes last: a script that breaks half-way leaves one that is judged again, and no job without.
local function requeue(id, reason)
  local r = redis.call('HMGET', JOB .. id, 'model', 'attempt', 'token', 'tag', 'worker', 'step')
  local queue = QUEUE_PREFIX .. r[1]
  rq_ended(id, queue, r[3], r[5])
  orphan(id, r[3])
  if redis.call('EXISTS', SNAPSHOT .. id) == 1 then redis.call('HSET', SNAPSHOT .. id, 'reached', r[6] or 0) end
  redis.call('HDEL', JOB .. id, 'token', 'worker', 'standing')
  redis.call('HSET', JOB .. id, 'status', 'queued', 'step', 0, 'stage', '', 'place', list_add(id, r[1]))
  redis.call('ZADD', QUEUED .. r[1], (tonumber(r[4]) or 0) - BEFORE_ALL, id)
  tell_a_worker(r[1])
  redis.call('HSET', RQ_JOB .. id, 'status', 'queued', 'worker_name', '')
  emit(id, 'job.restarted', '{"reason":"' .. reason .. '","attempts":' .. r[2] .. '}')
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
local function over(id, status, data, fields, used)
  local at = now()
  local r = redis.call('HMGET', JOB .. id, 'model', 'retention_ms', 'tenant', 'token', 'created_ms', 'inputs', 'task',
    'worker', 'webhook_events')
  rq_ended(id, QUEUE_PREFIX .. r[1], r[4], r[8])
  if r[4] and status ~= 'succeeded' then orphan(id, r[4]) end
  redis.call('SREM', OPEN .. r[3], id)
  redis.call('ZADD', ENDED .. status .. ':' .. r[3], r[5] or at, id)
  redis.call('ZADD', of_task(r[7], status, r[3]), r[5] or at, id)
  redis.call('DEL', RQ_JOB .. id)
  if redis.call('DEL', SNAPSHOT .. id) == 1 and r[4] then
    redis.call('ZADD', SNAPSHOT_OBJECTS, 'XX', at + ORPHAN_MS, id .. '/' .. r[4])
  end
  redis.call('HSET', JOB .. id, 'status', status, 'ended_ms', at, 'expires_ms', at + r[2], unpack(fields))
  redis.call('ZADD', EXPIRY, at + r[2], id)
  release_inputs(id, r[6], at + r[2])
  used = used or {}
  used[status] = 1
  use(r[3], at, used)
  emit(id, 'job.' .. status, data, r[9])
  redis.call('ZREM', LEASES, id)
end

-- The worker of a running job is gone: queued again, or at its end after too many of them. `because` is a sentence that
-- the worker left, or ''. Answers 'canceled', 'failed' or 'requeued'.
local function owner_lost(id, because)
  if field(id, 'cancel') then
    over(id, 'canceled', '{}', {'step', 0})
    return 'canceled'
  end
  if redis.call('HINCRBY', JOB .. id, 'failures', 1) < MAX_ATTEMPTS then
    requeue(id, 'worker-lost')
    return 'requeued'
  end
  local detail = 'The job was started ' .. MAX_ATTEMPTS .. ' times and its worker was lost each time.'
  if because ~= '' then detail = detail .. ' The last time: ' .. because end
  local error = '{"slug":"attempts-exhausted","detail":' .. cjson.encode(detail) .. '}'
  over(id, 'failed', '{"error":' .. error .. '}', {'error', error})
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

-- Why there is no room for another job, or nil.
local function refusal(tenant, model, queue_limit, tenant_limit)
  if redis.call('ZCARD', QUEUED .. model) >= tonumber(queue_limit) then return 'queue-full' end
  if redis.call('SCARD', OPEN .. tenant) >= tonumber(tenant_limit) then return 'tenant-full' end
end

-- One of fields and values, false if it is not among them.
local function value_of(name, fields)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return false
end

-- The life of a job begins. RQ's job hash is written already; further arguments are fields and values of the record that
-- only the submitter knows. The record is written at once: each further call and line of the log is dearer than a field.
-- Answers when the job began.
local function accept(id, tenant, model, cost, ...)
  local at, deadline = now(), tonumber(value_of('deadline_ms', {...}))
  local due = deadline and at + deadline
  local tag, place, stands = enqueue(id, tenant, model, cost, value_of('priority', {...}), due)
  redis.call('HSET', JOB .. id, 'id', id, 'tenant', tenant, 'model', model, 'cost', cost, 'status', 'queued',
    'attempt', 0, 'failures', 0, 'step', 0, 'created_ms', at, 'v', RECORD_VERSION, 'tag', tag, 'place', place,
    'standing', stands, ...)
  redis.call('ZADD', TENANT .. tenant, at, id)
  redis.call('ZADD', of_task(value_of('task', {...}), '', tenant), at, id)
  redis.call('SADD', OPEN .. tenant, id)
  emit(id, 'job.queued', '{}', value_of('webhook_events', {...}))
  return at
end
