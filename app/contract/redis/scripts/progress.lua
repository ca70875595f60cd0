-- How far jobs are, one round trip for all.
-- ARGV: id, token, step, steps, stage or '', and so on
-- Answers of each for how many ms somebody is believed to watch it yet, 0 if nobody does, -1 to an owner that no longer
-- is. A step that was told is told once, however often it is said.
local answers, at = {}, now()
for i = 1, #ARGV, 5 do
  local id, token, step, steps, stage = unpack(ARGV, i, i + 4)
  local r = redis.call('HMGET', JOB .. id, 'status', 'token', 'step', 'steps', 'stage', 'watched_ms',
    'webhook_events')
  local left = -1
  if r[1] == 'running' and r[2] == token then
    left = math.max(0, (tonumber(r[6]) or 0) - at)
    if r[3] ~= step or r[4] ~= steps or (r[5] or '') ~= stage then
      redis.call('HSET', JOB .. id, 'step', step, 'steps', steps, 'stage', stage)
      local named = stage ~= '' and ',"stage":' .. cjson.encode(stage) or ''
      emit(id, 'job.progress', '{"step":' .. step .. ',"steps":' .. steps .. named .. '}', r[7])
    end
  end
  answers[#answers + 1] = left
end
return answers
