-- A worker says what it serves, and that it is alive.
-- ARGV: model, worker, card (JSON). An empty card takes the worker off.
local model, worker, at = ARGV[1], ARGV[2], now()
if ARGV[3] == '' then return redis.call('ZREM', ALIVE .. model, worker) end
redis.call('HSET', CARDS, model, ARGV[3])
redis.call('ZADD', ALIVE .. model, at, worker)
return redis.call('ZREMRANGEBYSCORE', ALIVE .. model, '-inf', at - ALIVE_MS)
