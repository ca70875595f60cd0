-- Where jobs stand in the queues of a model, and what is forgotten with them. prelude.lua's functions use these; they know
-- no job's record.

-- Interactive jobs and batch jobs of a model are two queues, each with turns and a virtual time of its own.
local function queue_of(model, priority)
  return priority == 'batch' and BATCH_QUEUE .. model or model
end

local function forget_turns(model)
  local batch = queue_of(model, 'batch')
  redis.call('DEL', TURNS .. model, NEXT_TURN .. model, STANDING .. model, CLOCK .. model, TURNS .. batch,
    NEXT_TURN .. batch, STANDING .. batch, CLOCK .. batch)
end

-- Where a job stands among those of its tenant in its queue: in the lane WITH_DEADLINE by the moment of it, in that
-- WITHOUT_DEADLINE by its number, which is the order of arrival.
local function standing(tenant, lane, due, number, id)
  return string.format('%s %s%015d%015d %s', tenant, lane, due, number, id)
end

-- The parts of a standing.
local function read_standing(text)
  local lane, due, number, id = string.match(text, ' (%a)(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)(%d+) (%S+)$')
  return {text = text, lane = lane, due = tonumber(due), number = tonumber(number), id = id}
end

-- The standing of a tenant's job in a queue: the first that is not before `from`, which is a lane, or '' for all;
-- `skipped` more are left out. `is_alone`: no other was left out, and none comes behind it. nil: there is none.
local function standing_of(queue, tenant, from, skipped)
  skipped = skipped or 0
  local found = redis.call('ZRANGEBYLEX', STANDING .. queue, '[' .. tenant .. ' ' .. from,
    '(' .. tenant .. BEHIND_TENANT, 'LIMIT', skipped, 2)
  if not found[1] then return nil end
  local first = read_standing(found[1])
  first.is_alone = skipped == 0 and not found[2]
  return first
end

-- The id of the tenant's job that stands next behind this one, or nil.
local function overtaken_by(queue, tenant, stands)
  local found = redis.call('ZRANGEBYLEX', STANDING .. queue, '(' .. stands, '(' .. tenant .. BEHIND_TENANT,
    'LIMIT', 0, 1)
  return found[1] and read_standing(found[1]).id
end
