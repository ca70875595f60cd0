-- Jobs whose owner fell silent go back to the queue, or end after too many such attempts. RQ's list is written anew
-- where it does not hold as many ids as wait (a broken restart, a foreign hand).
-- ARGV: how many leases to judge at most. Answers {requeued, failed, repaired}.
local requeued, failed, repaired, at = 0, 0, 0, now()

for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', at, 'LIMIT', 0, ARGV[1])) do
  if field(id, 'status') ~= 'running' then
    redis.call('ZREM', LEASES, id)
  elseif field(id, 'cancel') then
    over(id, 'canceled', '{}', {'step', 0})
  elseif redis.call('HINCRBY', JOB .. id, 'failures', 1) >= MAX_ATTEMPTS then
    local detail = 'The job was started ' .. MAX_ATTEMPTS .. ' times and its worker was lost each time.'
    local error = '{"slug":"attempts-exhausted","detail":"' .. detail .. '"}'
    over(id, 'failed', '{"error":' .. error .. '}', {'error', error})
    redis.call('ZADD', DEAD, at, id)
    failed = failed + 1
  else
    requeue(id, 'worker-lost')
    requeued = requeued + 1
  end
end

for _, model in ipairs(redis.call('SMEMBERS', MODELS_QUEUED)) do
  local list, listed = RQ_QUEUE .. QUEUE_PREFIX .. model, {}
  if redis.call('ZCARD', QUEUED .. model) ~= redis.call('LLEN', list) then
    for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do listed[id] = true end
    redis.call('DEL', list)
    redis.call('HDEL', CLOCK .. model, 'popped')
    for _, id in ipairs(redis.call('ZRANGE', QUEUED .. model, 0, -1)) do
      list_add(id, model)
      if not listed[id] then repaired = repaired + 1 end
    end
  end
end
return {requeued, failed, repaired}
