"""The scripts over a real Valkey: who owns a job, and how it ends. Once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now

from app.contract.messages.events import Status
from app.contract.messages.job import Candidate, JobError, Picture, Record, Selection
from app.contract.messages.params import Webhook
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Ownership
from app.contract.redis.rq_job import ENTRY_POINT
from app.contract.redis.store import JobStore, NewJob, Submission
from tests.contract.test_spec import OF_BEFORE
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]

PICTURE = Picture(
    index=0, key="images/x", sha256="f" * 64, seed=7, width=128, height=128, content_type="image/png", bytes=9
)


async def submit(store: JobStore, job: NewJob, **options: object) -> Submission:
    return await store.submit(job, **({"queue_limit": 100, "tenant_limit": 100} | options))  # type: ignore[arg-type]


async def record_of(store: JobStore, job: NewJob) -> Record:
    record = await store.get(job.id, job.tenant)
    assert record is not None
    return record


async def events_of(store: JobStore, job: NewJob) -> list[str]:
    return [event for _, event, _ in await store.next_events(job.id, "0", wait_seconds=0.01)]


async def test_the_whole_road(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    job = new_job(webhook=Webhook(url="https://example.com/told"))
    submission = await submit(store, job)
    record = await record_of(store, job)
    assert submission == Submission("created", job.id, record), "the submitter is told what everybody reads"
    assert (record.status, record.attempt, record.metadata) == (Status.QUEUED, 0, {"order": "17"})
    assert record.position == await store.position(record) == 0

    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert (claim.id, claim.spec, claim.attempt, claim.failures) == (job.id, job.spec, 1, 0)
    assert ownership.beat([claim]) == [Beat.KEPT]
    assert ownership.progress(claim, 5, 20)
    record = await record_of(store, job)
    assert (record.status, record.step, record.steps) == (Status.RUNNING, 5, 20)
    assert record.position is await store.position(record) is None

    assert ownership.succeed(claim, [PICTURE], timings={"denoise": 0.5}, warnings=["cut"], steps=20)
    record = await record_of(store, job)
    assert record.status is Status.SUCCEEDED
    assert (record.images, record.timings, record.warnings) == ((PICTURE,), {"denoise": 0.5}, ("cut",))
    assert record.created_ms <= (record.started_ms or 0) <= (record.ended_ms or 0) < (record.expires_ms or 0)
    assert await events_of(store, job) == ["job.queued", "job.started", "job.progress", "job.succeeded"]


async def test_what_was_chosen_from_is_in_the_record(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    job = new_job()
    await submit(store, job)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    kept = Candidate(index=1, seed=8, score=0.8, probability=0.9, estimated_score=0.7, pruned_at=None, kept=True)
    lost = kept.model_copy(update={"index": 0, "seed": 7, "score": None, "pruned_at": 12, "kept": False})
    chosen = Selection(scorer="starter-scorer", scorer_sha256="f" * 64, texts=("a circle",), candidates=(lost, kept))
    scored = PICTURE.model_copy(update={"index": 1, "score": 0.8, "probability": 0.9})
    assert ownership.succeed(claim, [scored], timings={}, warnings=[], steps=20, selection=chosen)
    record = await record_of(store, job)
    assert (record.selection, record.images) == (chosen, (scored,))
    assert record.object_keys == [PICTURE.key]


async def test_the_last_word_may_be_repeated_but_not_changed(
    store: JobStore, ownership: Ownership, new_job: NewJobs
) -> None:
    job = new_job()
    await submit(store, job)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    for _ in range(2):
        assert ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20)
    assert not ownership.fail(claim, JobError(slug="generation-failed", detail="too late"))
    assert not ownership.canceled(claim)
    assert not ownership.give_back(claim, "worker-stopped")
    assert (await events_of(store, job)).count("job.succeeded") == 1
    assert (await record_of(store, job)).status is Status.SUCCEEDED


async def test_jobs_are_claimed_in_order_and_once(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await submit(store, job)
    claims = [ownership.claim("starter", f"w{n}") for n in range(4)]
    assert [claim and claim.id for claim in claims] == [*(job.id for job in jobs), None]
    assert ownership.claim("another-model", "w9") is None


async def test_an_id_that_rq_carries_twice_is_claimed_once(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await submit(store, job)
    redis_client.rpush("rq:queue:generate-starter", job.id, "job_000000000000000000000000")
    assert ownership.claim("starter", "w1") is not None
    assert ownership.claim("starter", "w2") is None


async def test_a_zombie_changes_nothing(
    store: JobStore, ownership: Ownership, new_job: NewJobs, lease_runs_out: Callable[[str], None]
) -> None:
    job = new_job()
    await submit(store, job)
    zombie = ownership.claim("starter", "w1")
    assert zombie is not None
    lease_runs_out(job.id)
    assert await store.reap() == (1, 0, 0, 1)

    owner = ownership.claim("starter", "w2")
    assert owner is not None
    assert (owner.attempt, owner.failures) == (2, 1)
    assert owner.token != zombie.token
    assert ownership.beat([zombie, owner]) == [Beat.LOST, Beat.KEPT]
    assert not ownership.progress(zombie, 1, 20)
    assert not ownership.succeed(zombie, [PICTURE], timings={}, warnings=[], steps=20)
    assert not ownership.give_back(zombie, "worker-stopped")
    assert (await record_of(store, job)).status is Status.RUNNING
    assert ownership.succeed(owner, [PICTURE], timings={}, warnings=[], steps=20)
    assert await events_of(store, job) == [
        "job.queued", "job.started", "job.restarted", "job.started", "job.succeeded",
    ]  # fmt: skip


async def test_a_job_that_loses_three_workers_fails(
    store: JobStore, ownership: Ownership, new_job: NewJobs, lease_runs_out: Callable[[str], None]
) -> None:
    job = new_job()
    await submit(store, job)
    outcomes = []
    for _ in range(3):
        assert ownership.claim("starter", "w1") is not None
        lease_runs_out(job.id)
        outcomes.append(await store.reap())
    assert outcomes == [(1, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1)]
    record = await record_of(store, job)
    assert record.status is Status.FAILED
    assert record.error is not None
    assert record.error.slug == "attempts-exhausted"
    assert ownership.claim("starter", "w1") is None


async def test_giving_back_costs_no_attempt(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    first, second = new_job(), new_job()
    await submit(store, first)
    await submit(store, second)
    for attempt in range(1, 6):
        claim = ownership.claim("starter", "w1")
        assert claim is not None
        assert (claim.id, claim.attempt, claim.failures) == (first.id, attempt, 0)
        assert (await record_of(store, first)).stage == "", "where the last attempt was says nothing of this one"
        for stage in ("prior", "decoder"):
            ownership.progress(claim, 3, 20, stage)
            assert (await record_of(store, first)).stage == stage, "also where no step was taken between"
        assert ownership.give_back(claim, "worker-stopped")
    assert (await record_of(store, first)).status is Status.QUEUED


async def test_cancel_while_queued(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    job = new_job()
    await submit(store, job)
    assert await store.cancel(job.id, "someone-else") == "missing"
    assert await store.cancel(job.id, "ann") == "canceled"
    assert await store.cancel(job.id, "ann") == "canceled", "said twice, it is no more canceled than before"
    assert ownership.claim("starter", "w1") is None
    assert (await record_of(store, job)).status is Status.CANCELED


async def test_cancel_while_running(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await submit(store, job)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    with redis_client.pubsub() as commands:
        commands.subscribe("rq:pubsub:w1")
        assert commands.get_message(timeout=WAIT_SECONDS)
        assert await store.cancel(job.id, "ann") == "requested"
        message = commands.get_message(timeout=WAIT_SECONDS)
    assert message is not None
    assert job.id in message["data"]
    assert ownership.beat([claim]) == [Beat.CANCEL]
    assert ownership.canceled(claim)
    assert (await record_of(store, job)).status is Status.CANCELED


async def test_a_canceled_job_does_not_come_back_with_its_worker_lost(
    store: JobStore, ownership: Ownership, new_job: NewJobs, lease_runs_out: Callable[[str], None]
) -> None:
    job = new_job()
    await submit(store, job)
    assert ownership.claim("starter", "w1")
    await store.cancel(job.id, "ann")
    lease_runs_out(job.id)
    await store.reap()
    assert (await record_of(store, job)).status is Status.CANCELED


async def test_an_id_lost_from_its_list_is_put_back(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await submit(store, job)
    redis_client.lrem("rq:queue:generate-starter", 1, jobs[1].id)
    assert await store.reap() == (0, 0, 1, 0)
    assert await store.reap() == (0, 0, 0, 0)
    claimed = {claim.id for _ in range(3) if (claim := ownership.claim("starter", "w1"))}
    assert claimed == {job.id for job in jobs}


async def test_idempotency(store: JobStore, new_job: NewJobs, redis_client: redis.Redis) -> None:
    first, again, other = new_job(), new_job(), new_job()
    key = {"idempotency_key": "k" * 64}
    created = await submit(store, first, **key, body_hash="aa")
    assert created == Submission("created", first.id, await store.get(first.id, first.tenant))
    assert await submit(store, again, **key, body_hash="aa") == Submission("replayed", first.id, created.record)
    assert await submit(store, other, **key, body_hash="bb") == Submission("conflict", first.id)
    stranger = new_job(tenant="bob")
    assert (await submit(store, stranger, **key, body_hash="bb")).outcome == "created"
    assert redis_client.zcard(keys.QUEUED + "starter") == 2


async def test_no_room(store: JobStore, ownership: Ownership, new_job: NewJobs) -> None:
    assert (await submit(store, new_job(), tenant_limit=1)).outcome == "created"
    assert (await submit(store, new_job(), tenant_limit=1)).outcome == "tenant-full"
    assert (await submit(store, new_job(tenant="bob"), queue_limit=1)).outcome == "queue-full"
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert (await submit(store, new_job(), tenant_limit=1)).outcome == "tenant-full", "running counts as well"
    ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20)
    assert (await submit(store, new_job(), tenant_limit=1)).outcome == "created"


async def test_rq_sees_what_the_record_says(
    store: JobStore, ownership: Ownership, new_job: NewJobs, valkey_url: str, redis_client: redis.Redis
) -> None:
    raw = redis.Redis.from_url(valkey_url)
    job = new_job("a secret prompt")
    await submit(store, job)
    queue = Queue("generate-starter", connection=raw, serializer="json")
    rq_job = RQJob.fetch(job.id, connection=raw, serializer="json")
    assert queue.job_ids == [job.id]
    assert queue in Queue.all(connection=raw, serializer="json")
    assert (rq_job.func_name, rq_job.args, rq_job.get_status()) == (ENTRY_POINT, [job.id], "queued")
    assert "secret" not in str(raw.hgetall(f"rq:job:{job.id}"))

    worker = Worker([queue], name="w1", connection=raw, serializer="json")
    worker.register_birth()
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    started = StartedJobRegistry(queue=queue)
    assert (queue.job_ids, started.count) == ([], 1)
    assert [(e.job_id, e.id) for e in worker.get_current_executions()] == [(job.id, claim.token)]
    assert rq_job.get_status(refresh=True) == "started"

    ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20)
    assert started.count == 0
    assert worker.get_current_executions(refresh=True) == []
    worker.register_death()
    left = [key for key in redis_client.keys("rq:*") if job.id in key]
    assert left == []
    raw.close()


async def test_rq_reads_of_a_job_what_it_would_have_written_itself(
    store: JobStore, new_job: NewJobs, valkey_url: str
) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        job, before = new_job(), now()
        await submit(store, job)
        ours = RQJob.fetch(job.id, connection=raw, serializer=JSONSerializer)
        assert before <= ours.created_at <= now()
        theirs = RQJob.create(
            ENTRY_POINT, [job.id], id=job.id, connection=raw, origin="generate-starter", timeout=-1,
            status=JobStatus.QUEUED, serializer=JSONSerializer,
        )  # fmt: skip
        theirs.created_at, theirs.description = ours.created_at, ours.description
        assert ours.data == theirs.data
        assert ours.to_dict() == theirs.to_dict()
        assert b"" not in raw.hvals(f"rq:job:{job.id}")


async def test_rq_suspend_stops_claiming(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    await submit(store, new_job())
    redis_client.set("rq:suspended", 1)
    assert ownership.claim("starter", "w1") is None
    redis_client.delete("rq:suspended")
    assert ownership.claim("starter", "w1") is not None


async def test_a_record_from_the_future_is_left_to_newer_workers(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await submit(store, job)
    redis_client.hset(keys.JOB + job.id, "v", keys.RECORD_VERSION + 1)
    assert ownership.claim("starter", "old-worker") is None
    assert (await record_of(store, job)).status is Status.QUEUED
    redis_client.hset(keys.JOB + job.id, "v", keys.RECORD_VERSION)
    assert ownership.claim("starter", "new-worker") is not None


async def test_an_empty_negative_prompt_of_before_was_none(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """Version 4 stored "" where nothing was asked for; a job of it that waits is drawn as it would have been."""
    job = new_job()
    await submit(store, job)
    redis_client.hset(keys.JOB + job.id, mapping={"v": 4, "spec": OF_BEFORE})
    record = await record_of(store, job)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert (record.spec, record.spec.negative_prompt) == (claim.spec, None)


async def test_webhook_events_reach_the_outbox(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    webhook = Webhook(url="https://example.org/hook", events=["job.started", "job.succeeded"])
    job, silent = new_job(webhook=webhook), new_job()
    for each in (job, silent):
        await submit(store, each)
        claim = ownership.claim("starter", "w1")
        assert claim is not None
        ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20)
    assert redis_client.zrange(keys.OUTBOX, 0, -1) == [f"{job.id}/job.started/1", f"{job.id}/job.succeeded/1"]


async def test_forget_leaves_nothing(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await submit(store, job)
    assert not await store.forget(job.id)
    await store.cancel(job.id, "ann")
    assert await store.expired() == []
    redis_client.zadd(keys.EXPIRY, {job.id: 1})
    assert await store.expired() == [job.id]
    assert await store.forget(job.id)
    left = {key for key in redis_client.keys("*") if job.id in key}
    assert left <= {keys.SAID + job.id}, "for a minute, that it was"
    assert await store.expired() == []


async def test_listing_pages_newest_first(store: JobStore, new_job: NewJobs) -> None:
    jobs = [new_job() for _ in range(5)]
    for job in jobs:
        await submit(store, job)
    await submit(store, new_job(tenant="bob"))
    await store.cancel(jobs[0].id, "ann")
    newest = await store.list_jobs("ann", limit=3)
    rest = await store.list_jobs("ann", limit=3, before=(newest[-1].created_ms, newest[-1].id))
    assert {record.id for record in newest + rest} == {job.id for job in jobs}
    assert len(newest) == 3
    assert [r.created_ms for r in newest + rest] == sorted((r.created_ms for r in newest + rest), reverse=True)
    canceled = await store.list_jobs("ann", limit=3, status=Status.CANCELED)
    assert [record.id for record in canceled] == [jobs[0].id]


async def test_models_outlive_their_workers(
    store: JobStore, ownership: Ownership, card: object, redis_client: redis.Redis
) -> None:
    assert await store.models.all() == {}
    ownership.announce(card, "w1")  # type: ignore[arg-type]
    ownership.announce(card, "w2")  # type: ignore[arg-type]
    served = await store.models.all()
    assert (served["starter"].card, served["starter"].workers) == (card, 2)
    ownership.leave("starter", "w1")
    redis_client.zadd(keys.ALIVE + "starter", {"w2": 1})
    assert (await store.models.all())["starter"].workers == 0


async def test_scripts_survive_a_flush_of_the_script_cache(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    await submit(store, new_job())
    redis_client.script_flush()
    assert ownership.claim("starter", "w1") is not None
    redis_client.script_flush()
    assert (await submit(store, new_job())).outcome == "created"
