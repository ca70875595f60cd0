-- A piece of the jobs that wait for a model, or of those that run, counted from the end of the line: what is claimed goes
-- from its beginning, so that nobody is passed over who stays. Changes nothing.
-- ARGV: model, 'waiting' or 'running', how many to leave out, how many
-- Answers {id, tenant, cost, created_ms, ...}.
local line, answer = ARGV[2] == 'waiting' and QUEUED .. ARGV[1] or RQ_STARTED .. QUEUE_PREFIX .. ARGV[1], {}
for _, member in ipairs(redis.call('ZREVRANGE', line, ARGV[3], ARGV[3] + ARGV[4] - 1)) do
  local id = string.match(member, '^[^:]+')
  local r = redis.call('HMGET', JOB .. id, 'tenant', 'cost', 'created_ms')
  answer[#answer + 1] = id
  for i = 1, 3 do answer[#answer + 1] = r[i] or '' end
end
return answer
