-- One round trip for all jobs in flight: extend the leases that are still ours.
-- ARGV: id, token, id, token, ...
-- Answers per job 'kept', 'lost' or 'cancel'; said again, the same, with leases that end later by as much.
local answers, at = {}, now()
for i = 1, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  if not owns(id, token) then
    answers[#answers + 1] = 'lost'
  else
    redis.call('ZADD', LEASES, 'XX', at + LEASE_MS, id)
    redis.call('EXPIRE', RQ_EXECUTION .. id .. ':' .. token, RQ_TTL_SECONDS)
    answers[#answers + 1] = field(id, 'cancel') and 'cancel' or 'kept'
  end
end
return answers
