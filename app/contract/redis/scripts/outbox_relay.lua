-- Put one due entry on RQ's queue, if nobody did so since it was found due.
-- ARGV: entry, RQ id, then fields and values of RQ's job hash. Answers 1 or 0; said again, 0,
-- because the id is on the list or was taken from it.
local due = redis.call('ZSCORE', OUTBOX, ARGV[1])
if not due or tonumber(due) > now() or redis.call('LPOS', WEBHOOKS, ARGV[2]) then return 0 end
redis.call('DEL', RQ_JOB .. ARGV[2])
redis.call('HSET', RQ_JOB .. ARGV[2], unpack(ARGV, 3))
redis.call('SADD', RQ_QUEUES, WEBHOOKS)
redis.call('RPUSH', WEBHOOKS, ARGV[2])
return 1
