-- Somebody looks at these jobs: their progress is told more often for a while. Worker and record hear of the first look;
-- one that lasts is told again from time to time. Said again, it only lasts longer.
-- ARGV: ids. Of jobs that are over, or not there, nothing is changed.
local at = now()
for _, id in ipairs(ARGV) do
  local r = redis.call('HMGET', JOB .. id, 'status', 'worker', 'watched_ms')
  if r[1] == 'queued' or r[1] == 'running' then
    redis.call('HSET', JOB .. id, 'watched_ms', at + WATCH_MS)
    if r[1] == 'running' and (tonumber(r[3]) or 0) <= at then
      redis.call('PUBLISH', RQ_COMMANDS .. r[2], '{"command":"watch","job_id":"' .. id .. '"}')
    end
  end
end
return 1
