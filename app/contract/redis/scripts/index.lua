-- A piece of the way through a tenant's list, or through one of its indices: jobs are entered in those that they belong to,
-- what is gone is taken out. Doing it twice, or beside others, changes nothing.
-- ARGV: tenant, '' for the list, a final status for the index of that, or '<task>:' and '<task>:<status>' for those of a task,
--       moment and id of the place ('+inf' and '~': the beginning), how many
-- Answers {moment, id}, the place to go on from, or {} at the end.
local tenant, index = ARGV[1], ARGV[2]
local key = TENANT .. tenant
if string.find(index, ':', 1, true) then
  key = OF_TASK .. index .. ':' .. tenant
elseif index ~= '' then
  key = ENDED .. index .. ':' .. tenant
end
local found = after(key, ARGV[3], ARGV[4], ARGV[5])
for i = 1, #found, 2 do
  local id, moment = found[i], found[i + 1]
  local r = redis.call('HMGET', JOB .. id, 'status', 'task')
  if not r[1] then
    redis.call('ZREM', key, id)
  else
    redis.call('ZADD', of_task(r[2], '', tenant), moment, id)
    if r[1] ~= 'queued' and r[1] ~= 'running' then
      redis.call('ZADD', ENDED .. r[1] .. ':' .. tenant, moment, id)
      redis.call('ZADD', of_task(r[2], r[1], tenant), moment, id)
    end
  end
end
return {found[#found], found[#found - 1]}
