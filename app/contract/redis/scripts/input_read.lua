-- ARGV: ids. Answers {fields and values, when it goes} of each; no fields: there is none. Changes nothing.
local found = {}
for i, id in ipairs(ARGV) do
  found[i] = {redis.call('HGETALL', INPUT .. id), redis.call('ZSCORE', INPUT_EXPIRY, id)}
end
return found
