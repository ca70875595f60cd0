-- Nobody claims jobs of a model from now on; those that run go on. Said of one that is paused, it changes how, and not
-- since when. Said again just as it was, nothing changes and nothing is noted.
-- Nor with the same line, also if somebody has resumed it in between.
-- ARGV: model, '1' if further jobs come in, reason, ms after which it ends by itself ('' for never), line of the audit
-- Answers 1, or 0: nobody has announced such a model.
local model, at, paused = ARGV[1], now(), PAUSED .. ARGV[1]
if redis.call('HEXISTS', CARDS, model) == 0 then return 0 end
local r = redis.call('HMGET', paused, 'since_ms', 'accepts', 'reason', 'until_ms')
local same = r[1] and r[2] == ARGV[2] and r[3] == ARGV[3] and not r[4] and ARGV[4] == ''
if same or was_noted(ARGV[5]) then return 1 end
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
