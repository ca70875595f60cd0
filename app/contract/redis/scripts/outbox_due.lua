-- Entries whose time has come and whose RQ job waits on no list: never made, or lost.
-- ARGV: how many due entries to look at.
-- Answers entry, RQ id, entry, RQ id, ...; an unreadable entry leaves the outbox and comes back with the id ''.
-- Said again, the same but for unreadable entries, which are told of once.
local listed, found = {}, {}
for _, rq_id in ipairs(redis.call('LRANGE', WEBHOOKS, 0, -1)) do listed[rq_id] = true end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', now(), 'LIMIT', 0, ARGV[1])) do
  local rq_id = rq_id_of(entry)
  if not rq_id then redis.call('ZREM', OUTBOX, entry) end
  if not rq_id or not listed[rq_id] then
    found[#found + 1] = entry
    found[#found + 1] = rq_id or ''
  end
end
return found
