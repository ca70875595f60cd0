-- A worker that was told of a job cannot take it: another one is told. Said again, two are.
-- ARGV: model
if redis.call('EXISTS', QUEUED .. ARGV[1]) == 1 then
  tell_a_worker(ARGV[1], redis.call('EXISTS', NEXT_TURN .. ARGV[1]) == 1)
end
return 1
