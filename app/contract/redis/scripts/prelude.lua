-- What every script shares. The names of keys.py and rq_names.py stand above this line as locals.
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

-- These fields of a hash, by name; false where it has none.
local function read(key, names)
  local values, found = redis.call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do found[name] = values[i] end
  return found
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
    if began ~= tonumber(r[1]) then redis.call('PEXPIRE', key, 2 * LIMIT_WINDOW_MS) end
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

-- RQ's view of one attempt: an execution whose id is our token, on the list of its worker and on that of the queue.
-- Whatever ends the attempt takes it away.
local function rq_started(id, token, worker, queue, at)
  local seconds, execution = at / 1000, id .. ':' .. token
  redis.call('HSET', RQ_EXECUTION .. execution, 'id', token, 'job_id', id, 'worker_name', worker,
    'created_at', seconds, 'last_heartbeat', seconds)
  redis.call('ZADD', RQ_STARTED .. queue, seconds + RQ_TTL_SECONDS, execution)
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
-- the same however long the list is: the list loses its head, which moves into the gap. `popped`, how often it has, is
-- the clock's.
-- Answers the place, which the caller writes into the record, with what else it has to write there.
local function list_add(id, model, popped)
  local length = redis.call('RPUSH', RQ_QUEUE .. QUEUE_PREFIX .. model, id)
  if length == 1 then
    redis.call('SADD', MODELS_QUEUED, model)
    redis.call('SADD', RQ_QUEUES, RQ_QUEUE .. QUEUE_PREFIX .. model)
  end
  return (popped or 0) + length - 1
end

-- Answers how often the list has lost its head by then, which the caller writes into the clock.
local function list_remove(id, model, place, popped)
  local list = RQ_QUEUE .. QUEUE_PREFIX .. model
  local before, first = tonumber(popped) or 0, redis.call('LPOP', list)
  if not first then return before end
  if first == id then return before + 1 end
  local index = (tonumber(place) or -1) - before - 1
  if index >= 0 and redis.call('LINDEX', list, index) == id then
    redis.call('LSET', list, index, first)
    if redis.call('EXISTS', JOB .. first) == 1 then redis.call('HSET', JOB .. first, 'place', place) end
  else
    -- A foreign hand moved the list. It still holds what waits; places say little until it has run empty.
    redis.call('RPUSH', list, first)
    redis.call('LREM', list, 1, id)
  end
  return before + 1
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
local function tell_one_of(waiting, model)
  local idle = redis.call('ZPOPMAX', IDLE .. waiting)
  if not idle[1] then return false end
  if tonumber(idle[2]) < now() - IDLE_KEPT_MS then
    -- The latest of all: nobody that is entered lives.
    redis.call('DEL', IDLE .. waiting)
    return false
  end
  redis.call('ZADD', WORD .. idle[1], 0, model)
  redis.call('PEXPIRE', WORD .. idle[1], WORD_MS)
  return true
end

-- Of an interactive job one hears that would make a seat for it, where no idle one has a free seat.
local function tell_a_worker(model, is_interactive)
  return tell_one_of(model, model) or (is_interactive and tell_one_of(FOR_INTERACTIVE .. model, model))
end
