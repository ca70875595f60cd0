-- Remove what Redis knows of a job that is over. Its pictures are removed first, by the caller.
-- ARGV: id. Answers 1, or 0 while the job is not over.
local id = ARGV[1]
local r = redis.call('HMGET', JOB .. id, 'status', 'tenant')
if r[1] == 'queued' or r[1] == 'running' then return 0 end
redis.call('ZREM', EXPIRY, id)
redis.call('ZREM', DEAD, id)
if r[2] then
  redis.call('ZREM', TENANT .. r[2], id)
  redis.call('ZREM', ENDED .. r[1] .. ':' .. r[2], id)
end
redis.call('DEL', JOB .. id, EVENTS .. id, DELIVERIES .. id, OUTBOX_STATE .. id)
return 1
