-- The next id of RQ's queue becomes a try owned by `token`. Popping and owning are one step: an id is on the list or
-- its entry has an owner. An id that nothing is due for (carried twice, a foreign payload) is dropped here.
-- Said again with its token, because the answer was lost, it gives the same try again; nil if it has another owner by now.
-- ARGV: worker, token
-- Answers nil, or {entry, now, moment of the fact, tries before, '1' if the receiver is gone, record as a flat list}.
local worker, token, at = ARGV[1], ARGV[2], now()

local function told(entry)
  local p, r = parts(entry), {}
  local where = home(p.id)
  if where then
    r = redis.call('HMGET', OUTBOX_STATE .. p.id, p.name .. ':at', p.name .. ':tries', 'disabled')
  end
  return {entry, at, r[1] or at, r[2] or 0, r[3] or '', where and redis.call('HGETALL', where) or {}}
end

local function own(entry, rq_id, due)
  release(entry)
  redis.call('ZADD', OUTBOX, 'XX', at + DELIVERY_LEASE_MS, entry)
  local p = parts(entry)
  if home(p.id) then
    local state = OUTBOX_STATE .. p.id
    redis.call('HSETNX', state, p.name .. ':at', due)
    redis.call('HSET', state, p.name .. ':token', token, p.name .. ':worker', worker, p.event, p.attempt)
    keep(state, p.id)
    rq_started(rq_id, token, worker, WEBHOOK_QUEUE, at)
    -- Its state may be forgotten, with the job, before anybody ends it.
    redis.call('EXPIRE', RQ_EXECUTION .. rq_id .. ':' .. token, RQ_TTL_SECONDS)
  end
  give(worker, token, entry)
end

local before = given(worker, token)
if before then
  local p = parts(before)
  return redis.call('HGET', OUTBOX_STATE .. p.id, p.name .. ':token') == token and told(before) or nil
end
if redis.call('EXISTS', RQ_SUSPENDED) == 1 then return nil end

for _ = 1, 100 do
  local rq_id = redis.call('LPOP', WEBHOOKS)
  if not rq_id then return nil end
  local entry = entry_of(rq_id)
  local due = entry and redis.call('ZSCORE', OUTBOX, entry)
  if not due then
    redis.call('DEL', RQ_JOB .. rq_id)
  elseif tonumber(due) <= at then
    own(entry, rq_id, due)
    return told(entry)
  end
end
return nil
