-- The worker has the model in memory, or has given it up: others may take it up too. Said twice, it is the same.
-- ARGV: model, worker
if redis.call('GET', TAKING_UP .. ARGV[1]) == ARGV[2] then redis.call('DEL', TAKING_UP .. ARGV[1]) end
return 1
