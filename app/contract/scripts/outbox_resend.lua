-- A fact that was sent before, or is being tried, is sent again: now, with all tries, and to a receiver that said 410.
-- ARGV: job id, event. Answers 'sent', 'missing' (no such job) or 'unsent' (nothing of that kind was ever owed).
local id, event = ARGV[1], ARGV[2]
if redis.call('EXISTS', JOB .. id) == 0 then return 'missing' end
local state = OUTBOX_STATE .. id
local attempt = redis.call('HGET', state, event)
for n = tonumber(field(id, 'attempt') or 0), 0, -1 do
  if not attempt and redis.call('ZSCORE', OUTBOX, id .. '/' .. event .. '/' .. n) then attempt = n end
end
if not attempt then return 'unsent' end
local entry, name = id .. '/' .. event .. '/' .. attempt, event .. '/' .. attempt
redis.call('HDEL', state, 'disabled', name .. ':tries')
if redis.call('HEXISTS', state, name .. ':token') == 0 then redis.call('ZADD', OUTBOX, now(), entry) end
return 'sent'
