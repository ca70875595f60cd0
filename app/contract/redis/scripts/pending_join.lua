-- A job for an equal request, which waits for it from now on: the one that nobody has waited for for longest. One that
-- somebody waits for is given only to those who say that they tried before: their earlier try may look alive.
-- ARGV: name, waiter, 'again' or '', for how many ms the waiter is believed
-- Answers the job's id, or nil. A second call of the same waiter gets the same job.
local key, waiter, again, believed = PENDING .. ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local at, found, least, latest = now(), nil, nil, 0
local jobs = redis.call('HGETALL', key)
for i = 1, #jobs, 2 do
  local until_ms, who = string.match(jobs[i + 1], '^(%d+) (%S+)$')
  latest = math.max(latest, tonumber(until_ms))
  until_ms = who == waiter and -1 or tonumber(until_ms)
  if not least or until_ms < least then found, least = jobs[i], until_ms end
end
if not found or (least > at and again == '') then return nil end
-- Behind all others, also those of this millisecond: whoever comes next gets another one.
redis.call('HSET', key, found, string.format('%d %s', math.max(at + believed, latest + 1), waiter))
return found
