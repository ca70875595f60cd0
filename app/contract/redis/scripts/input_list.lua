-- Pictures that came in, of a tenant, newest first, after a place.
-- ARGV: tenant, moment and id of the place ('+inf' and '~': the beginning), how many
-- Answers {fields and values, when it goes} of each.
local key, n = INPUTS_OF .. ARGV[1], tonumber(ARGV[4])
local inputs, stale
repeat
  inputs, stale = {}, false
  local found = after(key, ARGV[2], ARGV[3], n)
  for i = 1, #found, 2 do
    local fields = redis.call('HGETALL', INPUT .. found[i])
    if #fields > 0 then
      inputs[#inputs + 1] = {fields, redis.call('ZSCORE', INPUT_EXPIRY, found[i])}
    else
      redis.call('ZREM', key, found[i])
      stale = true
    end
  end
until not stale
return inputs
