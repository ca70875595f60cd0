-- ARGV: 'brief' or '', ids. Answers what `seen` says of each. Changes nothing.
local found = {}
for i = 2, #ARGV do found[i - 1] = seen(ARGV[i], ARGV[1] == 'brief') end
return found
