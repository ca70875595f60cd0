-- The secrets a tenant's webhooks are signed with, newest first.
-- ARGV: tenant, a fresh secret, ms for which the present one stays valid ('' changes nothing but a missing one)
-- Answers {current} or {current, previous}. Said again with the same fresh secret, it rotates nothing, even if other
-- rotations came between.
local key = WEBHOOK_SECRET .. ARGV[1]
local current = redis.call('HGET', key, 'current')
local rotates = ARGV[3] ~= '' and redis.call('SET', SAID .. redis.sha1hex(ARGV[2]), '', 'NX', 'PX', SAID_MS)
if not current or rotates then
  if current then redis.call('HSET', key, 'previous', current, 'previous_until_ms', now() + ARGV[3]) end
  redis.call('HSET', key, 'current', ARGV[2])
end

local r = redis.call('HMGET', key, 'current', 'previous', 'previous_until_ms')
if r[2] and tonumber(r[3]) > now() then return {r[1], r[2]} end
redis.call('HDEL', key, 'previous', 'previous_until_ms')
return {r[1]}
