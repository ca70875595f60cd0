-- How a picture looks by now. The stream gets a note only: it is kept for days, the pixels for moments.
-- ARGV: id, token, index, step, steps, JPEG as base64. Answers 1, or 0 to an owner that no longer is.
local id, token, index, step, steps, jpeg = unpack(ARGV)
if not owns(id, token) then return 0 end
if #jpeg > MAX_PREVIEW then return 1 end
local key = PREVIEW .. id .. ':' .. index
redis.call('HSET', key, 'step', step, 'jpeg', jpeg)
redis.call('PEXPIRE', key, PREVIEW_MS)
emit(id, 'job.preview', '{"index":' .. index .. ',"step":' .. step .. ',"steps":' .. steps .. '}')
return 1
