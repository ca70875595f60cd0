-- What a running job can go on from, should its worker go: in the place of what was kept before. One in the object store
-- is announced before it is stored, so that it is removed whatever happens to its worker.
-- ARGV: id, token, step, SHA-256, then 'data' and the bytes, 'object' and its key, or 'coming' and ''
-- Answers 1, or 0 to an owner that no longer is. Said again, it writes the same.
local id, token, step, sha256, kind, value = unpack(ARGV)
if not owns(id, token) then return 0 end
if kind ~= 'data' then redis.call('ZADD', SNAPSHOT_OBJECTS, now() + SNAPSHOT_MS, id .. '/' .. token) end
if kind == 'coming' then return 1 end
redis.call('DEL', SNAPSHOT .. id)
redis.call('HSET', SNAPSHOT .. id, 'token', token, 'step', step, 'sha256', sha256, kind, value)
redis.call('PEXPIRE', SNAPSHOT .. id, SNAPSHOT_MS)
return 1
