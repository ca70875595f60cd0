-- A worker says what it serves, and that it is alive. Said twice, it is the same.
-- ARGV: model, worker, card (JSON), ms after which it could have the model in memory ('' for one that has it), 1 if it is
-- about to take it up: nobody else does meanwhile, and what else it says of itself (JSON; '' for nothing). An empty card
-- takes the worker off: the model is away from now on, if this was its last worker. What was forgotten meanwhile stays
-- forgotten.
-- Answers 1 if it shall take no more jobs and leave, else 0.
local model, worker, at = ARGV[1], ARGV[2], now()
if ARGV[3] == '' then
  stop_serving(model, worker)
  return 0
end
redis.call('HSET', CARDS, model, ARGV[3])
redis.call('ZADD', SEEN, at, model)
redis.call('ZADD', ALIVE .. model, at, worker)
if (ARGV[4] or '') == '' then
  redis.call('HDEL', LOADABLE .. model, worker)
else
  redis.call('HSET', LOADABLE .. model, worker, ARGV[4])
end
if ARGV[5] == '1' and redis.call('GET', TAKING_UP .. model) == worker then
  redis.call('PEXPIRE', TAKING_UP .. model, LEASE_MS)
end
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', ALIVE .. model, '-inf', at - ALIVE_MS)) do
  redis.call('HDEL', LOADABLE .. model, silent)
end
redis.call('ZREMRANGEBYSCORE', ALIVE .. model, '-inf', at - ALIVE_MS)
if (ARGV[6] or '') ~= '' then redis.call('SET', WORKER .. worker, ARGV[6], 'PX', ALIVE_MS) end
return redis.call('ZSCORE', DRAINING, worker) and 1 or 0
