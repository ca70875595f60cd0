-- Jobs of a tenant, newest first, after a place: all, or those of one status, or the open ones with certain notes.
-- ARGV: tenant, status ('' any, 'open' queued or running), moment and id of the place ('+inf' and '~': the beginning),
--       how many, 'checked' if it need not be looked whether the index of ended jobs is whole, task ('' any), then names
--       and values that the metadata of an open job must have
-- Answers {1, what `seen` says of each in brief, moment and id of the place to go on from where jobs of other tasks were passed
-- over, or {} at the end}, or {0}: the index is not whole; see index.lua.
local tenant, status, moment, last, n, task = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[7]

local function is_asked_for(id)
  return task == '' or (field(id, 'task') or 'draw') == task
end

-- Every job of the tenant is open or has ended in one way. Another version may have ended or forgotten some meanwhile.
local function is_whole()
  local entered = redis.call('SCARD', OPEN .. tenant)
  for _, final in ipairs({'succeeded', 'failed', 'canceled'}) do
    entered = entered + redis.call('ZCARD', ENDED .. final .. ':' .. tenant)
  end
  return entered == redis.call('ZCARD', TENANT .. tenant)
end

local function listed(key)
  local ids, place, stale
  local size = task == '' and n or LISTED_AT_ONCE
  repeat
    ids, place, stale = {}, {}, false
    local found = after(key, moment, last, size)
    for i = 1, #found, 2 do
      if #ids == n then break end
      place = #found == 2 * size and {found[i + 1], found[i]} or {}
      if redis.call('EXISTS', JOB .. found[i]) == 1 then
        if is_asked_for(found[i]) then ids[#ids + 1] = found[i] end
      else
        redis.call('ZREM', key, found[i])
        stale = true
      end
    end
  until not stale
  return ids, place
end

local function noted(metadata)
  local notes = #ARGV > 7 and cjson.decode(metadata or '{}') or {}
  for i = 8, #ARGV, 2 do
    if notes[ARGV[i]] ~= ARGV[i + 1] then return false end
  end
  return true
end

-- There are as many as a tenant may have unfinished.
local function open_ones()
  local at, found, ids = tonumber(moment) or math.huge, {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', OPEN .. tenant)) do
    local r = redis.call('HMGET', JOB .. id, 'status', 'created_ms', 'metadata')
    local created = tonumber(r[2])
    local is_after = created and (created < at or (created == at and id < last))
    local is_one = is_after and (status == 'open' or r[1] == status) and noted(r[3]) and is_asked_for(id)
    if is_one then found[#found + 1] = {created, id} end
  end
  table.sort(found, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end)
  for i = 1, math.min(n, #found) do ids[i] = found[i][2] end
  return ids
end

local ids, place
if status == '' then
  ids, place = listed(TENANT .. tenant)
elseif status == 'open' or status == 'queued' or status == 'running' then
  ids = open_ones()
elseif ARGV[6] ~= 'checked' and not is_whole() then
  return {0}
else
  ids, place = listed(ENDED .. status .. ':' .. tenant)
end
local jobs = {}
for i, id in ipairs(ids) do jobs[i] = seen(id, true) end
return {1, jobs, place or {}}
