-- Nobody claims jobs of a model from now on; those that run go on. Said of one that is paused, it changes how, and not
-- since when. Said again because an answer was lost, it is the same.
-- ARGV: model, '1' if further jobs come in, reason, ms after which it ends by itself ('' for never), line of the audit
-- Answers 1, or 0: nobody has announced such a model.
local model, at, paused = ARGV[1], now(), PAUSED .. ARGV[1]
if redis.call('HEXISTS', CARDS, model) == 0 then return 0 end
redis.call('HSETNX', paused, 'since_ms', at)
redis.call('HSET', paused, 'accepts', ARGV[2], 'reason', ARGV[3])
if ARGV[4] == '' then
  redis.call('HDEL', paused, 'until_ms')
  redis.call('PERSIST', paused)
else
  redis.call('HSET', paused, 'until_ms', at + ARGV[4])
  redis.call('PEXPIRE', paused, ARGV[4])
end
audit(ARGV[5])
return 1
