-- ARGV: line of the audit, of what was changed elsewhere.
audit(ARGV[1])
return 1
