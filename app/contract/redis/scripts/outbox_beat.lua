-- Tries under way keep their entries. ARGV: entry, token, entry, token, ... Answers how many are still owned.
-- Said again, the same, with leases that end later by as much.
local kept = 0
for n = 1, #ARGV, 2 do
  local p = parts(ARGV[n])
  if redis.call('HGET', OUTBOX_STATE .. p.id, p.name .. ':token') == ARGV[n + 1] then
    redis.call('ZADD', OUTBOX, 'XX', now() + DELIVERY_LEASE_MS, ARGV[n])
    kept = kept + 1
  end
end
return kept
