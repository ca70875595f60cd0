-- A drained worker has ended its last job, and leaves: it serves nothing any more. Not if the drain was taken back
-- meanwhile; once this was answered with 1, it cannot be.
-- ARGV: worker, models. Answers 1, or 0: nothing has changed. Said again, the same.
local worker = ARGV[1]
local told = redis.call('ZSCORE', DRAINING, worker)
if not told then return 0 end
-- It may be said for a while to start, of a model that it was loading: what has left is known by this.
redis.call('ZADD', DRAINING, -math.abs(tonumber(told)), worker)
for i = 2, #ARGV do stop_serving(ARGV[i], worker) end
return 1
