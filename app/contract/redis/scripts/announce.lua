-- A worker says what it serves, and that it is alive. Said twice, it is the same.
-- ARGV: model, worker, card (JSON). An empty card takes the worker off: the model is away from now on, if this was its
-- last worker. What was forgotten meanwhile stays forgotten.
local model, worker, at = ARGV[1], ARGV[2], now()
if ARGV[3] == '' then
  if redis.call('ZREM', ALIVE .. model, worker) == 1 then redis.call('ZADD', SEEN, at, model) end
  return 0
end
redis.call('HSET', CARDS, model, ARGV[3])
redis.call('ZADD', SEEN, at, model)
redis.call('ZADD', ALIVE .. model, at, worker)
return redis.call('ZREMRANGEBYSCORE', ALIVE .. model, '-inf', at - ALIVE_MS)
