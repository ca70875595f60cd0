-- The secrets a tenant's webhooks are signed with, newest first.
-- ARGV: tenant, a fresh secret, ms for which the present one stays valid ('' changes nothing but a missing one)
-- Answers {current} or {current, previous}.
local key = WEBHOOK_SECRET .. ARGV[1]
local current = redis.call('HGET', key, 'current')
if current and ARGV[3] ~= '' and current ~= ARGV[2] then
  redis.call('HSET', key, 'previous', current, 'previous_until_ms', now() + ARGV[3])
end
if not current or ARGV[3] ~= '' then redis.call('HSET', key, 'current', ARGV[2]) end

local r = redis.call('HMGET', key, 'current', 'previous', 'previous_until_ms')
if r[2] and tonumber(r[3]) > now() then return {r[1], r[2]} end
redis.call('HDEL', key, 'previous', 'previous_until_ms')
return {r[1]}
