-- The object is gone, and may be stored again.
-- ARGV: object
redis.call('ZREM', INPUT_ORPHANS, ARGV[1])
return redis.call('DEL', INPUT_REMOVAL .. ARGV[1])
