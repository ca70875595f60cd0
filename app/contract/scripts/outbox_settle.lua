-- How a try ended. What was really sent is logged and, if it was the end, believed even from a stale owner; only the
-- present owner may plan another try.
-- ARGV: entry, token, verdict ('over', 'disabled', 'again', 'postponed'), ms until the next try, log line ('' for none)
-- Answers 'done' or 'stale'. The same words said again after a broken connection change nothing.
local entry, token, verdict = ARGV[1], ARGV[2], ARGV[3]
local p = parts(entry)
local state, log = OUTBOX_STATE .. p.id, DELIVERIES .. p.id
local mine = redis.call('HGET', state, p.name .. ':token') == token
local final = verdict == 'over' or verdict == 'disabled'

local known = redis.call('EXISTS', JOB .. p.id) == 1
if known and ARGV[5] ~= '' and not redis.call('LPOS', log, ARGV[5]) then
  redis.call('LPUSH', log, ARGV[5])
  redis.call('LTRIM', log, 0, DELIVERIES_KEPT - 1)
  keep(log, p.id)
end
if not known or final then
  redis.call('ZREM', OUTBOX, entry)
elseif mine then
  redis.call('ZADD', OUTBOX, 'XX', now() + ARGV[4], entry)
  if verdict == 'again' then redis.call('HINCRBY', state, p.name .. ':tries', 1) end
end
if mine and verdict == 'disabled' then redis.call('HSET', state, 'disabled', 1) end
if mine or final or not known then
  release(entry)
  redis.call('DEL', RQ_JOB .. rq_id_of(entry))
end
if final then redis.call('HDEL', state, p.name .. ':tries') end
return mine and 'done' or 'stale'
