-- The object is gone, and may be stored again. Or that failed: then it is not stored before somebody has removed it.
-- ARGV: object, token of the removal, 1 if it is gone
-- Said again, it changes nothing: the removal is another's by then, or over.
local object, token = ARGV[1], ARGV[2]
if redis.call('GET', INPUT_REMOVAL .. object) ~= token then return 0 end
if ARGV[3] == '1' then
  redis.call('ZREM', INPUT_ORPHANS, object)
  return redis.call('DEL', INPUT_REMOVAL .. object)
end
redis.call('ZADD', INPUT_ORPHANS, now(), object)
redis.call('SET', INPUT_REMOVAL .. object, '', 'PX', ORPHAN_MS)
return 1
