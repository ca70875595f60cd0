-- ARGV: tenant. Answers the bytes of its pictures that came in, all together.
local sum = input_bytes(ARGV[1])
return sum
