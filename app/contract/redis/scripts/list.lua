-- Jobs of a tenant, newest first, after a place: all, or those of one status or task, or the open ones with certain notes.
-- ARGV: tenant, status ('' any, 'open' queued or running), moment and id of the place ('+inf' and '~': the beginning),
--       how many, 'checked' if it need not be looked whether the indices are whole, task ('' any), then names and values
--       that the metadata of an open job must have
-- Answers {1, what `seen` says of each in brief}, or {0}: the indices are not whole; see index.lua.
local tenant, status, moment, last, n, task = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[7]
local is_open = status == 'open' or status == 'queued' or status == 'running'

-- Every job of the tenant is open or has ended in one way, and was asked for one task. Another version may have accepted,
-- ended or forgotten some meanwhile.
local function all_ended_are_entered()
  local entered = redis.call('SCARD', OPEN .. tenant)
  for _, final in ipairs({'succeeded', 'failed', 'canceled'}) do
    entered = entered + redis.call('ZCARD', ENDED .. final .. ':' .. tenant)
  end
  return entered == redis.call('ZCARD', TENANT .. tenant)
end

local function all_of_tasks_are_entered(key)
  local entered = 0
  for _, each in ipairs(TASKS) do entered = entered + redis.call('ZCARD', of_task(each, status, tenant)) end
  return entered == redis.call('ZCARD', key)
end

local function is_whole(key)
  return (status == '' or all_ended_are_entered()) and (task == '' or all_of_tasks_are_entered(key))
end

local function listed(key)
  local ids, stale
  repeat
    ids, stale = {}, false
    local found = after(key, moment, last, n)
    for i = 1, #found, 2 do
      if redis.call('EXISTS', JOB .. found[i]) == 1 then
        ids[#ids + 1] = found[i]
      else
        redis.call('ZREM', key, found[i])
        stale = true
      end
    end
  until not stale
  return ids
end

local function noted(metadata)
  local notes = #ARGV > 7 and cjson.decode(metadata or '{}') or {}
  for i = 8, #ARGV, 2 do
    if notes[ARGV[i]] ~= ARGV[i + 1] then return false end
  end
  return true
end

-- Those of the tenant that are open, or run, by the moment when they came: put together by Redis itself. A tenant may have
-- ten thousand, and one look at each record holds everybody else up.
local function by_moment()
  if status == 'running' then
    return redis.call('ZINTER', 3, TENANT .. tenant, OPEN .. tenant, LEASES, 'WEIGHTS', 1, 0, 0, 'WITHSCORES')
  end
  return redis.call('ZINTER', 2, TENANT .. tenant, OPEN .. tenant, 'WEIGHTS', 1, 0, 'WITHSCORES')
end

local function fits(id)
  local r = redis.call('HMGET', JOB .. id, 'status', 'metadata', 'task')
  return r[1] and (status == 'open' or r[1] == status) and (task == '' or task == (r[3] or 'draw')) and noted(r[2])
end

local function open_ones()
  local at, found, ids = tonumber(moment) or math.huge, by_moment(), {}
  for i = #found - 1, 1, -2 do
    local id, created = found[i], tonumber(found[i + 1])
    if (created < at or (created == at and id < last)) and fits(id) then ids[#ids + 1] = id end
    if #ids >= n then break end
  end
  return ids
end

local ids
if is_open then
  ids = open_ones()
else
  local key = status == '' and TENANT .. tenant or ENDED .. status .. ':' .. tenant
  if ARGV[6] ~= 'checked' and not is_whole(key) then return {0} end
  ids = listed(task == '' and key or of_task(task, status, tenant))
end
local jobs = {}
for i, id in ipairs(ids) do jobs[i] = seen(id, true) end
return {1, jobs}
