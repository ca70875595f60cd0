-- ARGV: id, token, step, steps, stage or ''. Answers 1, or 0 to an owner that no longer is. A step that was told is told
-- once, however often it is said.
local id, token, step, steps, stage = unpack(ARGV)
if not owns(id, token) then return 0 end
local told = redis.call('HMGET', JOB .. id, 'step', 'steps', 'stage')
if told[1] == step and told[2] == steps and (told[3] or '') == stage then return 1 end
redis.call('HSET', JOB .. id, 'step', step, 'steps', steps, 'stage', stage)
local named = stage ~= '' and ',"stage":' .. cjson.encode(stage) or ''
emit(id, 'job.progress', '{"step":' .. step .. ',"steps":' .. steps .. named .. '}')
return 1
