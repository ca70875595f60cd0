-- The picture is stored: now it has a record. One that was there before is kept for as long as a new one.
-- ARGV: id, object, token of the upload, ms to keep it, tenant, bytes, most of the tenant's, then fields and values
-- Answers {'created' or 'known', fields and values, when it goes}. Said again with the same token, the same; but
-- {'gone'}, if the record was dropped in between: its object may have gone with it. The same when the upload's time is
-- over. {'full', bytes that the tenant has}, if others came in meanwhile: its object is nobody's.
local id, tenant = ARGV[1], ARGV[5]
local object, token, ends = ARGV[2], ARGV[3], now() + ARGV[4]
local until_ms = redis.call('ZSCORE', INPUT_UPLOADS .. object, token)
local sum, is_counted
redis.call('ZREM', INPUT_UPLOADS .. object, token)
if redis.call('EXISTS', INPUT .. id) == 0 then
  if not until_ms or tonumber(until_ms) <= now() then return {'gone'} end
  local has = too_many_input_bytes(tenant, ARGV[6], ARGV[7])
  if has then
    redis.call('ZADD', INPUT_ORPHANS, now(), object)
    return {'full', has}
  end
  sum, is_counted = input_bytes(tenant)
  redis.call('HSET', INPUT .. id, 'token', token, 'created_ms', now(), unpack(ARGV, 8))
  use(tenant, now(), {uploaded_bytes = tonumber(ARGV[6])})
end
redis.call('ZADD', INPUT_EXPIRY, 'GT', ends, id)
local r = redis.call('HMGET', INPUT .. id, 'tenant', 'created_ms')
redis.call('ZADD', INPUTS_OF .. r[1], r[2], id)
if sum then keep_input_bytes(tenant, sum + ARGV[6], is_counted) end
local made = redis.call('HGET', INPUT .. id, 'token') == token
return {made and 'created' or 'known', redis.call('HGETALL', INPUT .. id), redis.call('ZSCORE', INPUT_EXPIRY, id)}
