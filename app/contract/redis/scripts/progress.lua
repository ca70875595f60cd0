-- ARGV: id, token, step, steps. Answers 1, or 0 to an owner that no longer is. A step that was told is told once, however
-- often it is said.
local id, token, step, steps = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not owns(id, token) then return 0 end
local told = redis.call('HMGET', JOB .. id, 'step', 'steps')
if told[1] == step and told[2] == steps then return 1 end
redis.call('HSET', JOB .. id, 'step', step, 'steps', steps)
emit(id, 'job.progress', '{"step":' .. step .. ',"steps":' .. steps .. '}')
return 1
