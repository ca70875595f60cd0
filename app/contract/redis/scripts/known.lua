-- The job that an idempotency key brought in before, whatever would be said of the request today. Changes nothing.
-- KEYS: idempotency key. ARGV: hash of the body
-- Answers {'replayed', id, what `seen` says}, {'conflict', id}, or nil for a key that is new.
return replay(KEYS[1], ARGV[1])
