-- A picture is about to be stored. Until it has a record its object is nobody's, and goes when its time is over.
-- ARGV: object ("<id>/<tenant>/<sha256>"), token of this upload, id, tenant, bytes, most of the tenant's
-- Answers {'begun'}, {'removing'} while the object is being removed: what is stored now might go with it, or {'full', bytes
-- that the tenant has}: nothing need be stored to find that out. Said again, the same.
local object, token, id, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', INPUT_REMOVAL .. object) == 1 then return {'removing'} end
if redis.call('EXISTS', INPUT .. id) == 0 then
  local has = too_many_input_bytes(tenant, ARGV[5], ARGV[6])
  if has then return {'full', has} end
end
redis.call('ZADD', INPUT_ORPHANS, now() + ORPHAN_MS, object)
redis.call('ZADD', INPUT_UPLOADS .. object, now() + ORPHAN_MS, token)
redis.call('PEXPIRE', INPUT_UPLOADS .. object, ORPHAN_MS)
return {'begun'}
