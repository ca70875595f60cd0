"""Every name Darkroom uses in Redis, and how long each lives.

One file, so that an ACL, a dashboard and a reader find them all; RQ's own are in rq_names.py. Scripts get these names
as constants, and spell none.
"""

from __future__ import annotations

PREFIX = "darkroom:"

JOB = PREFIX + "job:"
"""hash per job, the record. Lives until `expires_ms`, then the sweeper takes it with its pictures."""

EVENTS = PREFIX + "events:"
"""stream per job. Forgotten together with the record."""

TENANT = PREFIX + "tenant:"
"""sorted set per tenant, job id by creation time: the caller's list, newest last."""

ENDED = PREFIX + "ended:"
"""sorted set like TENANT's per final status and tenant ("<status>:<tenant>"). Made whole where numbers differ."""

OF_TASK = PREFIX + "of-task:"
"""sorted set like it per task, final status or none, and tenant ("<task>:<status>:<tenant>"). Made whole likewise."""

OPEN = PREFIX + "open:"
"""set per tenant of its jobs that are not over: the tenant's share of the queue."""

LEASES = PREFIX + "leases"
"""sorted set, running job id by the moment its lease ends (ms of Redis time)."""

QUEUED = PREFIX + "queued:"
"""sorted set per model, job id by its start tag of fair queueing: the queue itself. The lowest tag is claimed next."""

BATCH_QUEUE = "batch:"
"""Before a model's name: its queue of batch jobs. That of the interactive ones has the name alone."""

TURNS = PREFIX + "turns:"
"""sorted set per model, of its interactive jobs, and per "batch:<model>" of its batch jobs: tenant by the finish tag of
its last queued job. Gone when the queue is empty."""

NEXT_TURN = PREFIX + "next-turn:"
"""sorted set per model and "batch:<model>", as TURNS: tenant with jobs that wait by the start tag of its next turn."""

STANDING = PREFIX + "standing:"
"""sorted set per model and "batch:<model>", all scores 0: where each waiting job stands among those of its tenant, as a
text that sorts ("<tenant> <lane><due><number> <job id>"). The first of a tenant takes its turn. What came back, or was
queued by an earlier version, has no standing: its score in QUEUED counts. Gone when the queue is empty."""

WITH_DEADLINE, WITHOUT_DEADLINE, BEHIND_TENANT = "a", "b", "!"
"""The lanes of a standing, of which the first sorts before the other; and what sorts behind a tenant and a space."""

CLOCK = PREFIX + "clock:"
"""hash per model, and per "batch:<model>" of `now` alone: `now`, the virtual time of fair queueing; `popped`, which
numbers the places of RQ's list; `came`, which numbers the jobs; "overtakes:<tenant>", how many of its turns in a row
passed over a job that had waited for longer; `owed`, the cost of interactive jobs that were claimed while batch jobs
waited; and `unserved`, the moment since when its jobs wait without one of them being claimed (ms of Redis time). Gone
when the queue is empty."""

FOR_INTERACTIVE = "interactive:"
"""Before a model's name, in IDLE: who waits for interactive jobs of it alone."""

IDLE = PREFIX + "idle:"
"""sorted set per model: workers with a free seat that found its queue empty, by when (ms of Redis time; those that hold
jobs a second earlier). Whoever is told of a job leaves it. What is left of dead workers goes with the next job.
Per "interactive:<model>" those that have no free seat, and would make one for an interactive job."""

WORD = PREFIX + "word:"
"""sorted set per worker, which alone blocks on it: models of which it was told that there is a job. Expires soon."""

MODELS_QUEUED = PREFIX + "queues"
"""set of models that ever had a queue; the reaper walks it."""

EXPIRY = PREFIX + "expiry"
"""sorted set, job id by the moment it may be forgotten."""

ORPHANS = PREFIX + "litter"
"""sorted set "<job id>/<token>" of attempts that ended without a result, by the moment their objects are removed."""

DEAD = PREFIX + "dead"
"""sorted set, id of a job that used up its attempts by the moment it did. Leaves when it is run again or forgotten."""

EPOCH = PREFIX + "epoch"
"""string, drawn when this Redis was first used. If it is gone, so is every accepted job. Kept."""

STORE_WORDS = PREFIX + "store-words"
"""sorted set, words that gateways of this Redis have left in the picture store, by the moment. A hundred are kept."""

LOST = PREFIX + "lost:"
"""string per job that was accepted and then lost, because Redis failed over to a replica that lacked it or came back
without its last second: its tenant, so that the caller is told so. Expires after LOST_SECONDS."""

IDEMPOTENCY = PREFIX + "idempotency:"
"""string per tenant and hashed Idempotency-Key: "<job id> <hash of the body>". Expires after a day."""

OUTBOX = PREFIX + "outbox"
"""sorted set "<job id>/<event>/<attempt>" by the moment it was written. An entry leaves when its delivery is over."""

OUTBOX_STATE = PREFIX + "outbox:"
"""hash per job: of each outbox entry the moment of its fact, the tries made, the owner, and the owners whose word about
a try was taken, the latest first. While a try is under way or a further one is planned, the entry's score in the outbox
is when to look at it again. Forgotten with the record, or with what a forgotten record still owes."""

OWED = PREFIX + "owed:"
"""hash per job that was forgotten while a webhook of it was owed: its record, for those. Gone with them, or expires."""

TAKEN = PREFIX + "taken:"
"""string per process that takes jobs or webhook tries: "<token> <what it was given>", the last of them. For a call that
is said again because its answer was lost. Expires after a day."""

SAID = PREFIX + "said:"
"""string per call whose work others may undo before it is said again, by what its caller drew: the id of a job that was
forgotten soon after it came in (and when that was), of a key or of a resend, the hash of a secret. Expires soon."""

DELIVERIES = PREFIX + "deliveries:"
"""list per job, newest first: the webhook tries made, as JSON. Expires with the record."""

WEBHOOK_SECRET = PREFIX + "webhook-secret:"
"""hash per tenant: the signing secret, and the one before it while that is still valid. Kept."""

CARDS = PREFIX + "models"
"""hash, model name to the card its workers announced. Kept while workers are away: a restart must not refuse jobs."""

MODEL_ALIASES = PREFIX + "model-aliases"
"""hash, another name to the model that is meant by it, as the operator has said while the service ran. Kept."""

ALIVE = PREFIX + "alive:"
"""sorted set per model, worker name by its last beat."""

LOADABLE = PREFIX + "loadable:"
"""hash per model: worker that serves it and has another one in memory now, to the ms after which it says that it could
have this one. Its other workers have it in memory."""

TAKING_UP = PREFIX + "taking-up:"
"""string per model: the worker that is about to take it up; others leave it to that one. Lives LEASE_MS from a beat."""

SEEN = PREFIX + "seen"
"""sorted set, model by the moment a worker of it was last heard of (ms of Redis time), since then it is away. Kept."""

STARTING = PREFIX + "starting"
"""hash, worker that is not announced yet to when it said what it is at, and what: "<ms> <sentence>". Expires soon."""

WORKER = PREFIX + "worker:"
"""string per worker: what it said of itself with its last beat (JSON). Expires when it is silent."""

PAUSED = PREFIX + "paused:"
"""hash per model whose jobs nobody claims: `since_ms`, `accepts` ("1": jobs come in), `reason`, `until_ms`. Expires."""

DRAINING = PREFIX + "draining"
"""sorted set, worker that takes no more jobs and leaves with its last one, by the moment it was told, in ms: below zero
once it has left. Kept for a day: for who asks again whether it has."""

AUDIT = PREFIX + "audit"
"""sorted set, what operators have changed ("<id of the line> <JSON>") by when. Kept AUDIT_MS, AUDIT_KEPT at most."""

PACE = PREFIX + "pace:"
"""hash per model, moving averages over jobs that succeeded: `job_ms`, how long one runs, `seat_ms`, the same times the
seats it holds, and `unit_ms`, the same for each unit of its cost. For the estimates a client sees, and to tell which
deadline can still be met. `of`: of which jobs, `interactive` as soon as one of them has succeeded, else `batch`."""

DEADLINES = PREFIX + "deadlines:"
"""hash per model: of the jobs with a deadline that have succeeded or failed, how many were in time (`met`) and how many
were not (`missed`). Kept until the model is forgotten."""

PREVIEW = PREFIX + "preview:"
"""hash per picture of a running job ("<job id>:<index>"): its newest preview. Expires by itself, soon."""

SNAPSHOT = PREFIX + "snapshot:"
"""hash per running job: what it can go on from, should its worker go, as bytes or as the key of an object, and how far
it had come. Goes with the job's end, and expires."""

SNAPSHOT_OBJECTS = PREFIX + "snapshot-objects"
"""sorted set "<job id>/<token>" of attempts with snapshots in the object store, by the moment these are removed."""

WAKE = PREFIX + "wake:"
"""stream per gateway process, one entry: written to make its blocking read look at another job. Lives a minute."""

PENDING = PREFIX + "pending:"
"""hash per caller and hash of a body: of each job whose request has no answer yet, until when somebody is believed to
wait for it, and who. So that an equal request joins the job instead of making another. Expires."""

API_KEYS = PREFIX + "keys"
"""hash, id of an API key to its JSON: the SHA-256, whose it is and what it may do. Kept until revoked."""

API_KEYS_VERSION = PREFIX + "keys-version"
"""string, another one after every change of the hash: gateways look at it twice a second. Kept when the hash is empty:
that there once was a key means that one is needed. Begins with `open:` once an operator has said otherwise."""

STREAM_TOKEN = PREFIX + "stream-token:"
"""string per SHA-256 of a token that opens one event stream: "<job id> <tenant> <key id>". Expires after minutes."""

LIMITS = PREFIX + "limits:"
"""hash per API key and limit ("requests:<key id>", "cost:<key id>"): what was used of the present minute and of the one
before; and for seconds, a string per request that was counted ("requests:<key id>:<its own id>"). Expire."""

USAGE = PREFIX + "usage:"
"""hash per day (UTC, days since the epoch), tenant to its USAGE_COUNTERS. Expires USAGE_DAYS after the day."""

CHECKPOINT = PREFIX + "checkpoint:"
"""string per tenant and API key ("<tenant>:<key id>"): the model that a program of AUTOMATIC1111's API has set for its
later requests. Expires when nobody has asked with that key for CHECKPOINT_SECONDS."""

INTERRUPTED = PREFIX + "interrupted:"
"""string per job that a program of AUTOMATIC1111's API has interrupted and nobody has called off. Expires soon."""

WRITE_PROBE = PREFIX + "write-probe"
"""Never holds anything: nothing is written to it, to see whether a write would be taken."""

INPUT = PREFIX + "input:"
"""hash per picture that came in, its record. Lives until its score in INPUT_EXPIRY, and while a job needs it."""

INPUT_EXPIRY = PREFIX + "input-expiry"
"""sorted set, id of a picture that came in by the moment it may be forgotten."""

INPUTS_OF = PREFIX + "inputs-of:"
"""sorted set per tenant: ids of the pictures that came in, by when. What another version dropped goes with a look."""

INPUT_BYTES = PREFIX + "input-bytes"
"""hash, tenant to the bytes of its pictures that came in, and how many those are. Counted anew where those differ."""

INPUT_USES = PREFIX + "input-uses:"
"""set per picture that came in: the jobs that need it and are not over. Goes with the last of them."""

INPUT_ORPHANS = PREFIX + "input-orphans"
"""sorted set, object of such a picture ("<id>/<tenant>/<sha256>") by when it is removed, if it then has no record."""

INPUT_UPLOADS = PREFIX + "input-uploads:"
"""sorted set per such object: who may be storing it, by the moment this is over. Expires."""

INPUT_REMOVAL = PREFIX + "input-removal:"
"""string per such object while it is removed: whose removal it is, or empty after one that failed. Expires."""

REAPER_LOCK = PREFIX + "reaper"
"""string, held for seconds by the gateway that reaps."""

# Lifetimes and bounds, in the unit the name says.
LEASE_MS = 30_000
"""With a beat every 10 s, two may be lost before a living worker loses its jobs."""

BEAT_SECONDS = 10.0
IDLE_SECONDS = 1.0
"""A worker with a free seat that hears nothing asks all the same after this. Shorter than any socket timeout."""

IDLE_AGAIN_MS = 4_000
IDLE_KEPT_MS = 7_000
"""A worker that goes on asking is entered as idle again after the first of these, which spares the log a line a second;
one whose entry is older than the second, and a second for holding jobs, has gone, and is told nothing."""

WORD_MS = 10_000
"""A word that nobody has taken up by then is old: its job was found by asking."""

REAP_SECONDS = 4.0
"""Lease + reap + one beat of slack keeps a crash under 35 s from being queued again."""

DELIVERY_LEASE_MS = 4_000
"""A webhook whose process died is taken up again after this: with a poll, inside 5 s of the process being back."""

DELIVERIES_KEPT = 100
"""Six events of ten tries each, and some sent again by hand."""

WATCH_MS = 12_000
RENEW_WATCH_SECONDS = 4.0
"""Who goes on watching says so again: twice before the mark on the record wears off, and a read may last 5 s."""

PREVIEW_MS = 30_000
"""Long enough for a listener that reconnects; and previews of hundreds of running jobs are a few megabytes."""

MAX_PREVIEW = 64 * 1024
"""Characters of a preview's base64. One is some 3 to 20 kB; what is larger is not a preview."""

SNAPSHOT_MS = 3_600_000
"""A job that is queued again is the first of its queue. Where nobody serves its model for an hour it starts over."""

MAX_ATTEMPTS = 3
SUSPECT_AFTER = 2
"""A job that lost so many workers runs alone: its neighbours must not pay for it, nor it for them."""

BEFORE_ALL = 1_000_000_000
"""Taken off the tag of a job that comes back. More than the virtual time that passes before a queue runs empty."""
AFTER_INTERACTIVE = 100_000_000
"""Added to the tag of a batch job, for its place among all."""

BATCH_CHARGE = 4
"""Times the cost of the first batch job that interactive jobs may take before it is claimed."""

OVERTAKES = 7
"""Turns of a tenant in a row that may pass over a job of it that has waited for longer. The eighth is that job's."""

ORPHAN_MS = 150_000
"""A worker that lost its job may go on storing pictures for its upload deadline (120 s) and a request more."""

IDEMPOTENCY_SECONDS = 86_400
LOST_SECONDS = 86_400
"""Longer than a client asks for one job, and as long as its Idempotency-Key would have been known."""

PENDING_SECONDS = 1_800
"""A client with the usual ten-minute deadline tries twice more, after pauses of at most two minutes."""

TAKEN_SECONDS = 86_400
"""Longer than a Redis may be away from a caller that keeps asking: the token of an attempt that was lost is used up,
and must not become the token of another, whose pictures would be tidied away with the first one's."""

CHECKPOINT_SECONDS = 30 * 86_400
"""Such programs set a model once, in their own settings, and count on it for good."""

DAY_SECONDS = 86_400
USAGE_DAYS = 400
"""A year, and the month in which somebody asks about it."""

INTERRUPTED_SECONDS = 900
"""Longer than a request waits for its job."""

OWED_MS = 7 * 86_400_000
"""Three days of tries, and a webhook process that was away before for as long. What a deleted job still owes is not
kept for ever where nobody delivers."""

DRAINED_MS = 86_400_000
AUDIT_MS = 400 * 86_400_000
AUDIT_KEPT = 10_000
"""Some 3 MB."""

LIMIT_WINDOW_MS = 60_000
COUNTED_MS = 10_000
SAID_MS = 60_000
"""A call whose answer was lost is said again within a few seconds, or never; but its caller may have stood still."""

EVENTS_KEPT = 1_000
ALIVE_MS = 35_000
"""A worker silent for longer is not counted as serving."""

RECORD_VERSION = 7
"""Raised when an older worker could misread a record; it then leaves the job to others."""
