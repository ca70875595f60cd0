-- A worker is about to take a model up, and the others leave it to this one until its next beats fail. Refused while
-- another is, and where workers have come to have it that the caller has not seen.
-- ARGV: model, worker, how many had it in memory when the caller looked. Answers 1 or 0; said again by the same, 1.
local model, worker = ARGV[1], ARGV[2]
local taken = redis.call('GET', TAKING_UP .. model)
if taken ~= worker and (taken or in_memory(model, now()) ~= tonumber(ARGV[3])) then return 0 end
redis.call('SET', TAKING_UP .. model, worker, 'PX', LEASE_MS)
return 1
