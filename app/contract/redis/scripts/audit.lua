-- ARGV: line of the audit, of what was changed elsewhere ('' for none); and the one in whose place it comes, if in any.
-- Said again, nothing changes.
if ARGV[2] then redis.call('ZREM', AUDIT, ARGV[2]) end
if ARGV[1] ~= '' then audit(ARGV[1]) end
return 1
