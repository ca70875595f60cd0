-- An operator makes an API key. Keys are needed from now on.
-- ARGV: id, what is kept of it (JSON), a fresh version of the keys, line of the audit ('' for none)
-- Said again with the same id, it changes nothing: it may have been revoked, and the service opened, in between.
if redis.call('SET', SAID .. ARGV[1], '', 'NX', 'PX', SAID_MS) then
  redis.call('HSET', API_KEYS, ARGV[1], ARGV[2])
  redis.call('SET', API_KEYS_VERSION, ARGV[3])
  if ARGV[4] ~= '' then audit(ARGV[4]) end
end
return 1
