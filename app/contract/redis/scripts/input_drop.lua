-- Take the record of a picture that came in off, unless a job that is not over needs it. Its object is nobody's then.
-- ARGV: id, tenant ('' for whose time is over), token of the upload that made the record ('' for any)
-- Answers {'dropped', object}, {'in-use', how many jobs}, or {'missing'}, also to what was said before:
-- the same picture may have come in anew since.
local id, tenant = ARGV[1], ARGV[2]
local r = redis.call('HMGET', INPUT .. id, 'tenant', 'sha256', 'token', 'bytes')
if tenant == '' and tonumber(redis.call('ZSCORE', INPUT_EXPIRY, id) or 0) > now() then return {'missing'} end
if not r[1] then
  redis.call('ZREM', INPUT_EXPIRY, id)
  return {'missing'}
end
if tenant ~= '' and (r[1] ~= tenant or (ARGV[3] ~= '' and r[3] ~= ARGV[3])) then return {'missing'} end
local jobs = 0
for _, job in ipairs(redis.call('SMEMBERS', INPUT_USES .. id)) do
  local status = field(job, 'status')
  if status == 'queued' or status == 'running' then
    jobs = jobs + 1
  else
    -- It was ended by a version that knows no inputs.
    redis.call('SREM', INPUT_USES .. id, job)
  end
end
if jobs > 0 then
  if tenant == '' then redis.call('ZADD', INPUT_EXPIRY, now() + ORPHAN_MS, id) end
  return {'in-use', jobs}
end
local object = id .. '/' .. r[1] .. '/' .. r[2]
local sum, is_counted = input_bytes(r[1])
-- First: a script that breaks half-way leaves a record whose object stays, and no object that is nobody's for ever.
redis.call('ZADD', INPUT_ORPHANS, now(), object)
redis.call('DEL', INPUT .. id, INPUT_USES .. id)
redis.call('ZREM', INPUT_EXPIRY, id)
redis.call('ZREM', INPUTS_OF .. r[1], id)
keep_input_bytes(r[1], sum - (tonumber(r[4]) or 0), is_counted)
return {'dropped', object}
