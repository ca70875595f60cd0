-- Every announced model, with its workers and its pace, in one look.
-- Workers of an older release note no leaving: what is known of them is noted here. A card of which nothing is known is
-- taken for seen now, later than it was, so that nobody is refused too early.
-- Answers {now, {name, card, workers, last seen (ms), jobs that wait, job_ms, seat_ms, how many have it in memory, ms until
-- one could, pause}}: job_ms and seat_ms are false before the first job, the next where one has it or nobody can say. Of a
-- pause since_ms, accepts, reason and until_ms, false where there is none.
local at, cards = now(), redis.call('HGETALL', CARDS)
local answer = {at}
for i = 1, #cards, 2 do
  local name = cards[i]
  local having, workers = in_memory(name, at)
  local ready = false
  for _, ms in ipairs(having == 0 and workers > 0 and redis.call('HVALS', LOADABLE .. name) or {}) do
    ready = math.min(ready or math.huge, tonumber(ms))
  end
  local beat = redis.call('ZREVRANGE', ALIVE .. name, 0, 0, 'WITHSCORES')[2]
  local noted = tonumber(redis.call('ZSCORE', SEEN, name) or 0)
  local seen = math.max(tonumber(beat or 0), noted)
  if seen == 0 then seen = at end
  if seen > noted + ALIVE_MS then redis.call('ZADD', SEEN, seen, name) end
  local pace = redis.call('HMGET', PACE .. name, 'job_ms', 'seat_ms')
  local waiting = redis.call('ZCARD', QUEUED .. name)
  answer[#answer + 1] = {name, cards[i + 1], workers, seen, waiting, pace[1], pace[2], having,
    ready and string.format('%.0f', ready), redis.call('HMGET', PAUSED .. name, 'since_ms', 'accepts', 'reason', 'until_ms')}
end
return answer
