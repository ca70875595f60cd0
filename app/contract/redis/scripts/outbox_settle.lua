-- How a try ended. What was really sent is logged and, if it was the end, believed even from a stale owner; only the
-- present owner may plan another try.
-- ARGV: entry, token, verdict ('over', 'disabled', 'again', 'postponed'), ms until the next try, log line ('' for none)
-- Answers 'done' or 'stale'. The same words said again after a broken connection are 'done' and change nothing: the
-- message may have been asked for again in between, and tried again.
local entry, token, verdict = ARGV[1], ARGV[2], ARGV[3]
local p = parts(entry)
local state, log, where = OUTBOX_STATE .. p.id, DELIVERIES .. p.id, home(p.id)
local owner = redis.call('HMGET', state, p.name .. ':token', p.name .. ':settled')
local mine = owner[1] == token
if not mine and owner[2] and string.find(owner[2], token, 1, true) then return 'done' end
local final = verdict == 'over' or verdict == 'disabled'

if where == JOB .. p.id and ARGV[5] ~= '' and not redis.call('LPOS', log, ARGV[5]) then
  redis.call('LPUSH', log, ARGV[5])
  redis.call('LTRIM', log, 0, DELIVERIES_KEPT - 1)
  keep(log, p.id)
end
if not where or final then
  redis.call('ZREM', OUTBOX, entry)
elseif mine then
  redis.call('ZADD', OUTBOX, 'XX', now() + ARGV[4], entry)
  if verdict == 'again' then redis.call('HINCRBY', state, p.name .. ':tries', 1) end
end
if mine and verdict == 'disabled' then redis.call('HSET', state, 'disabled', 1) end
if mine or final or not where then
  release(entry)
  redis.call('DEL', RQ_JOB .. rq_id_of(entry))
end
if final then redis.call('HDEL', state, p.name .. ':tries') end
if where and (mine or final) then
  -- The latest ones: who says his word again may have been followed by others.
  local settled = string.sub(token .. ' ' .. (owner[2] or ''), 1, 8 * (#token + 1))
  redis.call('HSET', state, p.name .. ':settled', settled)
  keep(state, p.id)
end
-- With the last message of a forgotten job goes what was kept for it.
if where ~= JOB .. p.id and not (where and owes(p.id, where)) then redis.call('DEL', OWED .. p.id, state) end
return mine and 'done' or 'stale'
