-- Jobs whose owner fell silent go back to the queue, or end after too many such attempts. RQ's list is written anew
-- where it does not hold as many ids as wait (a broken restart, a foreign hand).
-- ARGV: how many leases to judge at most. Answers {requeued, failed, repaired, leases that were judged}. Said again, it finds
-- nothing left to do: what the lost answer told is missing in a log, and nowhere else.
local requeued, failed, repaired, at = 0, 0, 0, now()

local due = redis.call('ZRANGEBYSCORE', LEASES, '-inf', at, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  local job = job_of(id)
  if job.status ~= 'running' then
    redis.call('ZREM', LEASES, id)
  else
    local verdict = owner_lost(id, job, '')
    if verdict == 'failed' then failed = failed + 1 end
    if verdict == 'requeued' then requeued = requeued + 1 end
  end
end

for _, model in ipairs(redis.call('SMEMBERS', MODELS_QUEUED)) do
  local list, listed = RQ_QUEUE .. QUEUE_PREFIX .. model, {}
  if redis.call('ZCARD', QUEUED .. model) ~= redis.call('LLEN', list) then
    for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do listed[id] = true end
    redis.call('DEL', list)
    redis.call('HDEL', CLOCK .. model, 'popped')
    for _, id in ipairs(redis.call('ZRANGE', QUEUED .. model, 0, -1)) do
      redis.call('HSET', JOB .. id, 'place', list_add(id, model, 0))
      if not listed[id] then repaired = repaired + 1 end
    end
  end
end
return {requeued, failed, repaired, #due}
