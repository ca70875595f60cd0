-- Remove what Redis knows of a job that is over. Its pictures are removed first, by the caller. What its webhooks still
-- have to say is put aside for them, where no reader of jobs finds it.
-- ARGV: id. Answers 1, also to what was said before, or 0 while the job is not over.
local id = ARGV[1]
local r = redis.call('HMGET', JOB .. id, 'status', 'tenant', 'expires_ms', 'task', 'created_ms')
if r[1] == 'queued' or r[1] == 'running' then return 0 end
-- Whoever brought it in may not have heard of it, and say so again.
if r[5] and tonumber(r[5]) > now() - SAID_MS then redis.call('SET', SAID .. id, r[5], 'PX', SAID_MS) end
redis.call('ZREM', EXPIRY, id)
redis.call('ZREM', DEAD, id)
if r[2] then
  redis.call('ZREM', TENANT .. r[2], id)
  redis.call('ZREM', ENDED .. r[1] .. ':' .. r[2], id)
  redis.call('ZREM', of_task(r[4], '', r[2]), id)
  redis.call('ZREM', of_task(r[4], r[1], r[2]), id)
end
if owes(id, JOB .. id) then
  redis.call('RENAME', JOB .. id, OWED .. id)
  -- So that the receiver reads that the pictures are gone.
  redis.call('HSET', OWED .. id, 'expires_ms', math.min(tonumber(r[3]), now()))
  redis.call('PEXPIRE', OWED .. id, OWED_MS)
end
redis.call('DEL', JOB .. id, EVENTS .. id, DELIVERIES .. id)
if redis.call('EXISTS', OWED .. id) == 0 then redis.call('DEL', OUTBOX_STATE .. id) end
return 1
