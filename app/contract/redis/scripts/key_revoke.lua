-- An operator ends an API key. Keys are needed afterwards, also when it was the last.
-- ARGV: id, a fresh version of the keys, line of the audit ('' for none)
-- Answers 1, or 0: there is no such key, and nothing changes; the service may have been opened since it went.
local known = redis.call('HDEL', API_KEYS, ARGV[1])
if known == 1 then
  redis.call('SET', API_KEYS_VERSION, ARGV[2])
  if ARGV[3] ~= '' then audit(ARGV[3]) end
end
return known
