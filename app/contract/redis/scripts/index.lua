-- A piece of the way through a tenant's list, or through its index of one final status: jobs that have ended are entered
-- in the index, what is gone is taken out. Doing it twice, or beside others, changes nothing.
-- ARGV: tenant, final status or '' for the list, moment and id of the place ('+inf' and '~': the beginning), how many
-- Answers {moment, id}, the place to go on from, or {} at the end.
local tenant = ARGV[1]
local key = ARGV[2] == '' and TENANT .. tenant or ENDED .. ARGV[2] .. ':' .. tenant
local found = after(key, ARGV[3], ARGV[4], ARGV[5])
for i = 1, #found, 2 do
  local status = field(found[i], 'status')
  if not status then
    redis.call('ZREM', key, found[i])
  elseif status ~= 'queued' and status ~= 'running' then
    redis.call('ZADD', ENDED .. status .. ':' .. tenant, found[i + 1], found[i])
  end
end
return {found[#found], found[#found - 1]}
