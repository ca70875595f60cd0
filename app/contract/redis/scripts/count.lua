-- One more request of an API key, if its minute has room for one.
-- ARGV: counter, what it allows, id of the request
-- Answers as `charge` does. A request that is told again, because the answer was lost, is counted once.
local counted = LIMITS .. ARGV[1] .. ':' .. ARGV[3]
local told = redis.call('EXISTS', counted) == 1
local answer = charge(ARGV[1], tonumber(ARGV[2]), told and 0 or 1)
if answer[1] == 1 and not told then redis.call('SET', counted, '', 'PX', COUNTED_MS) end
return answer
