-- A picture is about to be stored. Until it has a record its object is nobody's, and goes when its time is over.
-- ARGV: object ("<id>/<tenant>/<sha256>"), token of this upload
-- Answers 1, or 0 while the object is being removed: what is stored now might go with it. Said again, the same.
local object, token = ARGV[1], ARGV[2]
if redis.call('EXISTS', INPUT_REMOVAL .. object) == 1 then return 0 end
redis.call('ZADD', INPUT_ORPHANS, now() + ORPHAN_MS, object)
redis.call('ZADD', INPUT_UPLOADS .. object, now() + ORPHAN_MS, token)
redis.call('PEXPIRE', INPUT_UPLOADS .. object, ORPHAN_MS)
return 1
