-- A model that nobody serves any more leaves every list: card, pace, queues, and RQ's names of them. Refused while it has
-- a worker or jobs that are not over. Jobs that are over keep their records. A worker that announces it again brings it
-- back.
-- ARGV: model, line of the audit ('' for none)
-- Answers {'forgotten' or 'missing', 0}, or {'awake', 'queued' or 'running', how many}. Called again after it was
-- forgotten: 'missing'; with the same line, also if a worker has brought it back in between.
local model = ARGV[1]
if ARGV[2] ~= '' and was_noted(ARGV[2]) then return {'missing', 0} end
local queue = QUEUE_PREFIX .. model
local workers = redis.call('ZCOUNT', ALIVE .. model, now() - ALIVE_MS, '+inf')
if workers > 0 then return {'awake', workers} end
local waiting = redis.call('ZCARD', QUEUED .. model)
if waiting > 0 then return {'queued', waiting} end
local running = 0
for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  if field(id, 'model') == model then running = running + 1 end
end
if running > 0 then return {'running', running} end

local known = redis.call('HDEL', CARDS, model)
redis.call('ZREM', SEEN, model)
redis.call('SREM', MODELS_QUEUED, model)
redis.call('SREM', RQ_QUEUES, RQ_QUEUE .. queue)
forget_turns(model)
redis.call('DEL', ALIVE .. model, PACE .. model, DEADLINES .. model, QUEUED .. model, IDLE .. model,
  IDLE .. FOR_INTERACTIVE .. model, RQ_QUEUE .. queue, RQ_STARTED .. queue, LOADABLE .. model, TAKING_UP .. model,
  PAUSED .. model)
if known == 1 and ARGV[2] ~= '' then audit(ARGV[2]) end
return {known == 1 and 'forgotten' or 'missing', 0}
