-- A fact that was sent before, or is being tried, is sent again: now, with all tries, and to a receiver that said 410.
-- ARGV: job id, event, id of this call. Answers 'sent', 'missing' (no such job) or 'unsent' (nothing of that kind was
-- ever owed). Said again with the same id it changes nothing: the message may have gone out in between.
local id, event = ARGV[1], ARGV[2]
if redis.call('EXISTS', JOB .. id) == 0 then return 'missing' end
local state = OUTBOX_STATE .. id
if redis.call('EXISTS', SAID .. ARGV[3]) == 1 then return 'sent' end
local attempt = redis.call('HGET', state, event)
for n = tonumber(field(id, 'attempt') or 0), 0, -1 do
  if not attempt and redis.call('ZSCORE', OUTBOX, id .. '/' .. event .. '/' .. n) then attempt = n end
end
if not attempt then return 'unsent' end
local entry, name = id .. '/' .. event .. '/' .. attempt, event .. '/' .. attempt
redis.call('HDEL', state, 'disabled', name .. ':tries')
redis.call('SET', SAID .. ARGV[3], '', 'PX', SAID_MS)
keep(state, id)
if redis.call('HEXISTS', state, name .. ':token') == 0 then redis.call('ZADD', OUTBOX, now(), entry) end
return 'sent'
