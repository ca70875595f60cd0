-- A page of a list by time, newest first, after a place. Changes nothing.
-- ARGV: 'dead' or 'audit', moment and id of the place ('+inf' and '~': the beginning), how many
-- Answers {member, moment, ...}.
return after(ARGV[1] == 'dead' and DEAD or AUDIT, ARGV[2], ARGV[3], ARGV[4])
