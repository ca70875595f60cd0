-- A worker that cannot be announced yet says what it is at. An empty sentence takes it off the list.
-- ARGV: worker, sentence
local at = now()
if ARGV[2] == '' then return redis.call('HDEL', STARTING, ARGV[1]) end
local told = redis.call('HGETALL', STARTING)
for i = 1, #told, 2 do
  local since = tonumber(string.match(told[i + 1], '^%d+'))
  if since < at - ALIVE_MS then redis.call('HDEL', STARTING, told[i]) end
end
redis.call('HSET', STARTING, ARGV[1], at .. ' ' .. ARGV[2])
return redis.call('PEXPIRE', STARTING, ALIVE_MS)
