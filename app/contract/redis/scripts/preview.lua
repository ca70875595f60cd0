-- How a picture looks by now. The stream gets a note only: it is kept for days, the pixels for moments.
-- ARGV: id, token, index, step, steps, JPEG as base64. Answers 1, or 0 to an owner that no longer is. Said again, it is
-- told once.
local id, token, index, step, steps, jpeg = unpack(ARGV)
if not owns(id, token) then return 0 end
if #jpeg > MAX_PREVIEW then return 1 end
local key = PREVIEW .. id .. ':' .. index
local told = redis.call('HMGET', key, 'step', 'token')
if told[1] == step and told[2] == token then return 1 end
redis.call('HSET', key, 'step', step, 'token', token, 'jpeg', jpeg)
redis.call('PEXPIRE', key, PREVIEW_MS)
emit(id, 'job.preview', '{"index":' .. index .. ',"step":' .. step .. ',"steps":' .. steps .. '}')
return 1
