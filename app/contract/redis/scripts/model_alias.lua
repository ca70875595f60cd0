-- The operator gives a model another name, or takes one back. A name leads to a model and never to a name, so that there
-- is no circle; and it hides no model. A model that is announced later under this name goes before it.
-- ARGV: name, model ('' takes the name back), line of the audit for what changes something ('' for none)
-- Answers {'set', the model that it led to before or ''}, {'removed', that model}, {'missing', ''}: no such name, or taken
-- back before, {'is-model', ''}: a model is called so, {'no-model', ''}: nothing of what the name shall lead to is known,
-- {'is-alias', what the model's name leads to}, {'is-target', a name that leads to this one}.
-- Said again it changes nothing, and is the same, but for the model before, which is the present one then.
local name, model = ARGV[1], ARGV[2]
local before = redis.call('HGET', MODEL_ALIASES, name) or ''
-- Another operator may have changed it since: that stays, like its line of the audit.
if ARGV[3] ~= '' and was_noted(ARGV[3]) then return {model == '' and 'missing' or 'set', before} end
if model == '' then
  redis.call('HDEL', MODEL_ALIASES, name)
  if before ~= '' and ARGV[3] ~= '' then audit(ARGV[3]) end
  return {before == '' and 'missing' or 'removed', before}
end
if redis.call('HEXISTS', CARDS, name) == 1 then return {'is-model', ''} end
if redis.call('HEXISTS', CARDS, model) == 0 then
  local further = redis.call('HGET', MODEL_ALIASES, model)
  return {further and 'is-alias' or 'no-model', further or ''}
end
local known = redis.call('HGETALL', MODEL_ALIASES)
for i = 1, #known, 2 do
  if known[i + 1] == name then return {'is-target', known[i]} end
end
redis.call('HSET', MODEL_ALIASES, name, model)
if before ~= model and ARGV[3] ~= '' then audit(ARGV[3]) end
return {'set', before}
