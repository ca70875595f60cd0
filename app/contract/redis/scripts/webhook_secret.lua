-- The secrets a tenant's webhooks are signed with, newest first.
-- ARGV: tenant, a fresh secret, ms for which the present one stays valid ('' changes nothing but a missing one)
-- Answers {current} or {current, previous}. Said again with the same fresh secret, it rotates nothing, even if another
-- rotation came between.
local key = WEBHOOK_SECRET .. ARGV[1]
local current, previous = unpack(redis.call('HMGET', key, 'current', 'previous'))
local said_before = current == ARGV[2] or previous == ARGV[2]
if not current or (ARGV[3] ~= '' and not said_before) then
  if current then redis.call('HSET', key, 'previous', current, 'previous_until_ms', now() + ARGV[3]) end
  redis.call('HSET', key, 'current', ARGV[2])
end

local r = redis.call('HMGET', key, 'current', 'previous', 'previous_until_ms')
if r[2] and tonumber(r[3]) > now() then return {r[1], r[2]} end
redis.call('HDEL', key, 'previous', 'previous_until_ms')
return {r[1]}
