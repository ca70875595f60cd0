-- What a waiter says about the job that it waits for: I wait, I go, or I go and nobody shall join.
-- ARGV: name, id, waiter, for how many ms it is believed (0: it goes, 'forget': so that nobody joins)
-- Answers 1, or 0 if another request has joined the job since, whose word counts. A second call changes nothing.
local key, id, waiter, believed = PENDING .. ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local who = string.match(redis.call('HGET', key, id) or '', '(%S+)$')
if who and who ~= waiter then return 0 end
if believed == 'forget' then
  redis.call('HDEL', key, id)
else
  redis.call('HSET', key, id, string.format('%d %s', believed == '0' and 0 or now() + believed, waiter))
  redis.call('EXPIRE', key, PENDING_SECONDS)
end
return 1
