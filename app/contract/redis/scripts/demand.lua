-- What waits of the models that a worker could take up. Reads only. While the queue is suspended, or the model is paused,
-- nothing does.
-- ARGV: models
-- Answers per model {jobs that wait, ms since when they do without one of them being claimed, workers that have the model
-- in memory, who is about to take it up or false, job_ms, seat_ms}; the last two false before the first job.
local at, answer = now(), {}
for i, model in ipairs(ARGV) do
  local held = redis.call('EXISTS', RQ_SUSPENDED, PAUSED .. model) > 0
  local waiting = held and 0 or redis.call('ZCARD', QUEUED .. model)
  local since = waiting > 0 and redis.call('HGET', CLOCK .. model, 'unserved')
  if waiting > 0 and not since then
    -- Queued by a release that does not note it.
    local first = redis.call('ZRANGE', QUEUED .. model, 0, 0)[1]
    since = field(first, 'created_ms')
  end
  local pace = redis.call('HMGET', PACE .. model, 'job_ms', 'seat_ms')
  local having = in_memory(model, at)
  answer[i] = {waiting, at - (since or at), having, redis.call('GET', TAKING_UP .. model), pace[1], pace[2]}
end
return answer
