-- May an object that is nobody's be removed now? From here on nobody stores it again until it is gone.
-- ARGV: object, its id
-- Answers 1; or 0, because it has a record again, or because somebody is storing it. Said again, the same.
local object, id = ARGV[1], ARGV[2]
if redis.call('EXISTS', INPUT .. id) == 1 then
  redis.call('ZREM', INPUT_ORPHANS, object)
  return 0
end
if redis.call('ZCOUNT', INPUT_UPLOADS .. object, now(), '+inf') > 0 then
  redis.call('ZADD', INPUT_ORPHANS, now() + ORPHAN_MS, object)
  return 0
end
redis.call('SET', INPUT_REMOVAL .. object, '', 'PX', ORPHAN_MS)
return 1
