-- The next id of RQ's queue becomes a try owned by `token`. Popping and owning are one step: an id is on the list or
-- its entry has an owner. An id that nothing is due for (carried twice, a foreign payload) is dropped here.
-- ARGV: worker, token
-- Answers nil, or {entry, now, moment of the fact, tries before, '1' if the receiver is gone, record as a flat list}.
if redis.call('EXISTS', RQ_SUSPENDED) == 1 then return nil end

for _ = 1, 100 do
  local rq_id = redis.call('LPOP', WEBHOOKS)
  if not rq_id then return nil end
  local entry, at = entry_of(rq_id), now()
  local due = entry and redis.call('ZSCORE', OUTBOX, entry)
  if not due then
    redis.call('DEL', RQ_JOB .. rq_id)
  elseif tonumber(due) <= at then
    release(entry)
    redis.call('ZADD', OUTBOX, 'XX', at + DELIVERY_LEASE_MS, entry)
    local p = parts(entry)
    local record = redis.call('HGETALL', JOB .. p.id)
    if #record == 0 then return {entry, at, due, 0, '', record} end
    local state = OUTBOX_STATE .. p.id
    redis.call('HSETNX', state, p.name .. ':at', due)
    redis.call('HSET', state, p.name .. ':token', ARGV[2], p.name .. ':worker', ARGV[1], p.event, p.attempt)
    keep(state, p.id)
    rq_started(rq_id, ARGV[2], ARGV[1], WEBHOOK_QUEUE, at)
    local r = redis.call('HMGET', state, p.name .. ':at', p.name .. ':tries', 'disabled')
    return {entry, at, r[1], r[2] or 0, r[3] or '', record}
  end
end
return nil
