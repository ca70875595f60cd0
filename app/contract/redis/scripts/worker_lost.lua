-- A worker has gone for certain: its jobs need not wait for their leases. Judged as the reaper would; said twice, the
-- second time finds nothing. Jobs that were kept for it are anybody's, and it serves its model no longer.
-- ARGV: worker, what is known of the reason (may be empty). Answers {requeued, failed}.
local worker, because, requeued, failed = ARGV[1], ARGV[2], 0, 0
for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  if field(id, 'worker') == worker and field(id, 'status') == 'running' then
    local verdict = owner_lost(id, job_of(id), because)
    if verdict == 'failed' then failed = failed + 1 end
    if verdict == 'requeued' then requeued = requeued + 1 end
  end
end
for _, model in ipairs(redis.call('SMEMBERS', MODELS_QUEUED)) do
  for _, id in ipairs(redis.call('ZRANGE', QUEUED .. model, 0, 99)) do
    if field(id, 'kept_by') == worker then redis.call('HDEL', JOB .. id, 'kept_by', 'kept_until') end
  end
end
redis.call('HDEL', STARTING, worker)
for _, model in ipairs(redis.call('HKEYS', CARDS)) do
  stop_serving(model, worker)
end
return {requeued, failed}
