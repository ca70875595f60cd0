-- A worker shall take no more jobs, finish those that it has, and leave. It hears of it at once, and with its next beat.
-- Said again, nothing changes and nothing is noted, also when it has left, or the drain was taken back,
-- meanwhile.
-- ARGV: worker, line of the audit
-- Answers 'draining', 'left', 'missing' (nobody of this name was heard of lately) or 'deaf' (one of an earlier release).
local worker, at = ARGV[1], now()
local starts, serves = heard_of(worker)
local told = tonumber(redis.call('ZSCORE', DRAINING, worker) or nil)
if told then return told > 0 and (serves or starts) and 'draining' or 'left' end
if not (serves or starts) then return 'missing' end
if was_noted(ARGV[2]) then return 'draining' end
if serves and redis.call('EXISTS', WORKER .. worker) == 0 then return 'deaf' end
redis.call('ZREMRANGEBYSCORE', DRAINING, DRAINED_MS - at, at - DRAINED_MS)
redis.call('ZADD', DRAINING, at, worker)
redis.call('PEXPIRE', DRAINING, DRAINED_MS)
redis.call('PUBLISH', RQ_COMMANDS .. worker, '{"command":"drain"}')
audit(ARGV[2])
return 'draining'
