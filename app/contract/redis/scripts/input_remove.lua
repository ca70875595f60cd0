-- May an object that is nobody's be removed now? From here on nobody stores it again until it is gone.
-- ARGV: object, its id, token of this removal
-- Answers 1; or 0, because it has a record again, or because somebody else is storing or removing it. Said again with the
-- same token, the same.
local object, id, token = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', INPUT .. id) == 1 then
  redis.call('ZREM', INPUT_ORPHANS, object)
  return 0
end
-- Two at once: what is stored as soon as the first is done would go with the second's.
local other = redis.call('GET', INPUT_REMOVAL .. object)
if other and other ~= '' and other ~= token then return 0 end
-- Whoever asks for orphans finds others meanwhile.
redis.call('ZADD', INPUT_ORPHANS, now() + ORPHAN_MS, object)
if redis.call('ZCOUNT', INPUT_UPLOADS .. object, now(), '+inf') > 0 then return 0 end
redis.call('SET', INPUT_REMOVAL .. object, token, 'PX', ORPHAN_MS)
return 1
