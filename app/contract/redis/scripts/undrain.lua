-- A drain is taken back: the worker takes jobs again. It hears of it at once, and with its next beat. Of one that is not
-- drained nothing changes, and nothing is noted; nor when the same line is said again, of one that was drained anew.
-- ARGV: worker, line of the audit
-- Answers 'serving' or 'starting'; or what it is too late for: 'left', or 'missing' (nobody of this name was heard of
-- lately).
local worker = ARGV[1]
local starts, serves = heard_of(worker)
local drained = tonumber(redis.call('ZSCORE', DRAINING, worker) or nil)
if drained and drained < 0 then return 'left' end
if not (starts or serves) then return drained and 'left' or 'missing' end
if drained and not was_noted(ARGV[2]) then
  redis.call('ZREM', DRAINING, worker)
  redis.call('PUBLISH', RQ_COMMANDS .. worker, '{"command":"undrain"}')
  audit(ARGV[2])
end
return serves and 'serving' or 'starting'
