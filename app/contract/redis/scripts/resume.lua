-- A model's jobs are claimed again. Of one that is not paused nothing changes, and nothing is noted;
-- nor when the same line is said again, after somebody has paused it anew.
-- ARGV: model, line of the audit. Answers 1, or 0: nobody has announced such a model.
local model = ARGV[1]
if not was_noted(ARGV[2]) and redis.call('DEL', PAUSED .. model) == 1 then
  local waiting, is_interactive = redis.call('ZCARD', QUEUED .. model), redis.call('EXISTS', NEXT_TURN .. model) == 1
  while waiting > 0 and tell_a_worker(model, is_interactive) do waiting = waiting - 1 end
  audit(ARGV[2])
end
return redis.call('HEXISTS', CARDS, model)
