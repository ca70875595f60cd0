-- The owner cannot finish (it is told to stop, or the store is away) and says so: queued again, attempt not held
-- against the job.
-- ARGV: id, token, reason. Answers 'done' or 'stale'.
local id = ARGV[1]
if not owns(id, ARGV[2]) then return 'stale' end
if field(id, 'cancel') then
  over(id, 'canceled', '{}', {'step', 0})
else
  requeue(id, ARGV[3])
end
return 'done'
