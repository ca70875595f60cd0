"""From an outbox entry to a receiver and its consequences, over a real Valkey and real HTTP, one round at a time."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
import trustme
from rq import Queue, SimpleWorker
from rq.job import Callback, Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from app.contract.redis import keys
from app.contract.redis.outbox import Delivery, Outbox
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore
from app.contract.redis.webhook_secrets import Secrets
from app.outbound.address import Target
from app.outbound.dial import GuardedBackend
from app.webhooks.deliver import Answer, Sender, Verdict
from app.webhooks.options import PER_HOST
from app.webhooks.relay import DeliveryJob, ForeignPayload
from app.webhooks.schedule import DELAYS, TRIES
from tests.waiting import WAIT_SECONDS
from tests.webhooks.conftest import LOOPBACK, JobFor, PostOffice
from tests.webhooks.receivers import Receiver, Step, resets, says, verified

pytestmark = pytest.mark.anyio

Receivers = Callable[..., Awaitable[Receiver]]
Turn = Callable[[float], None]
THREE_DAYS = 80 * 3600.0
AN_HOUR = 3600.0
FIRST_PAUSE = DELAYS[0]


def owed(redis_client: redis.Redis) -> list[str]:
    entries: list[str] = redis_client.zrange(keys.OUTBOX, 0, -1)
    return entries


@contextmanager
def due_in(redis_client: redis.Redis, seconds: float) -> Iterator[None]:
    """What is done inside puts the only entry off by so much, however long it takes."""
    before = now_ms(redis_client)
    yield
    after = now_ms(redis_client)
    ((_, score),) = redis_client.zrange(keys.OUTBOX, 0, -1, withscores=True)
    assert before <= float(score) - 1000 * seconds <= after


def now_ms(redis_client: redis.Redis) -> int:
    seconds, micros = redis_client.time()
    return int(seconds * 1000 + micros // 1000)


def kept_of(redis_client: redis.Redis, job_id: str) -> list[str]:
    """But for the word that there was such a job, which lives a minute."""
    return [key for key in redis_client.keys(f"darkroom:*{job_id}*") if key != keys.SAID + job_id]


def rq_keys(redis_client: redis.Redis) -> set[str]:
    return {key for key in redis_client.keys("rq:*webhook*") if key != "rq:queue:webhooks"}


async def log_of(outbox: Outbox, job_id: str) -> list[tuple[str, int | None, int]]:
    return [(line.outcome, line.status, line.number) for line in await outbox.deliveries(job_id)]


async def test_a_message_a_receiver_believes(
    office: PostOffice, receiver: Receiver, job_for: JobFor, secrets: Secrets, outbox: Outbox, redis_client: redis.Redis
) -> None:
    job_id = await job_for(receiver.url + "?token=t%20k")
    await office.round()
    (arrival,) = receiver.arrivals
    message = verified(arrival, (await secrets.current("ann"))[0])
    assert arrival.path == "/hook?token=t%20k"
    assert arrival.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert arrival.headers["content-type"] == "application/json"
    assert "cookie" not in arrival.headers
    assert message["type"] == "job.canceled"
    assert message["timestamp"].endswith("+00:00")
    assert message["data"] == {"id": job_id, "status": "canceled", "prompt": "a secret prompt"}
    assert owed(redis_client) == []
    assert await log_of(outbox, job_id) == [("delivered", 200, 1)]
    assert rq_keys(redis_client) == set()
    assert redis_client.pttl(keys.DELIVERIES + job_id) > 0
    assert redis_client.pttl(keys.OUTBOX_STATE + job_id) > 0
    await office.round()
    assert len(receiver.arrivals) == 1


async def test_every_fact_of_a_life_is_sent_with_its_own_id(
    office: PostOffice, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis
) -> None:
    events = ("job.queued", "job.started", "job.succeeded")
    await job_for(receiver.url, events=events, cancel=False)
    owner = Ownership(redis_client)
    claim = owner.claim("starter", "w1")
    assert claim is not None
    assert owner.succeed(claim, [], timings={}, warnings=[], steps=20)
    await office.round()
    assert len({arrival.headers["webhook-id"] for arrival in receiver.arrivals}) == len(events)
    assert owed(redis_client) == []


async def test_ten_tries_then_exhausted(
    office: PostOffice,
    receivers: Receivers,
    job_for: JobFor,
    outbox: Outbox,
    redis_client: redis.Redis,
    the_clock_turns: Turn,
) -> None:
    receiver = await receivers(*[says("500 Oops")] * 20)
    job_id = await job_for(receiver.url)
    for _ in range(TRIES + 2):
        await office.round()
        the_clock_turns(THREE_DAYS)
    assert len(receiver.arrivals) == TRIES
    assert len({arrival.headers["webhook-id"] for arrival in receiver.arrivals}) == 1
    log = await log_of(outbox, job_id)
    assert log == [("exhausted", 500, TRIES), *(("failed", 500, number) for number in range(TRIES - 1, 0, -1))]
    assert owed(redis_client) == []
    assert rq_keys(redis_client) == set()


async def test_a_failed_try_is_not_due_before_its_time(
    office: PostOffice, receivers: Receivers, job_for: JobFor, redis_client: redis.Redis, the_clock_turns: Turn
) -> None:
    receiver = await receivers(says("500 Oops"))
    await job_for(receiver.url)
    with due_in(redis_client, FIRST_PAUSE):
        await office.round()
    the_clock_turns(-AN_HOUR)
    await office.round()
    assert len(receiver.arrivals) == 1
    the_clock_turns(AN_HOUR + FIRST_PAUSE)
    await office.round()
    assert len(receiver.arrivals) == 2
    assert owed(redis_client) == []


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_a_failure(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox, status: str
) -> None:
    elsewhere = await receivers()
    receiver = await receivers(says(status, f"Location: {elsewhere.url}"))
    job_id = await job_for(receiver.url)
    await office.round()
    assert elsewhere.arrivals == []
    (line,) = await outbox.deliveries(job_id)
    assert (line.outcome, line.status) == ("failed", int(status[:3]))
    assert "not followed" in line.detail


async def test_gone_ends_it_for_all_events_of_the_job(
    office: PostOffice,
    receivers: Receivers,
    job_for: JobFor,
    outbox: Outbox,
    store: JobStore,
    redis_client: redis.Redis,
) -> None:
    receiver = await receivers(says("410 Gone"))
    job_id = await job_for(receiver.url, events=("job.queued", "job.canceled"), cancel=False)
    await office.round()
    await store.cancel(job_id, "ann")
    await office.round()
    assert len(receiver.arrivals) == 1
    assert [line[:2] for line in await log_of(outbox, job_id)] == [("disabled", None), ("disabled", 410)]
    assert owed(redis_client) == []
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    await office.round()
    assert len(receiver.arrivals) == 2


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_retry_after_is_honoured(
    office: PostOffice, receivers: Receivers, job_for: JobFor, redis_client: redis.Redis, status: str
) -> None:
    receiver = await receivers(says(status, "Retry-After: 600"))
    await job_for(receiver.url)
    with due_in(redis_client, 600):
        await office.round()


async def test_retry_after_of_other_answers_is_not(
    office: PostOffice, receivers: Receivers, job_for: JobFor, redis_client: redis.Redis
) -> None:
    receiver = await receivers(says("500 Oops", "Retry-After: 600"))
    await job_for(receiver.url)
    with due_in(redis_client, FIRST_PAUSE):
        await office.round()


async def test_a_huge_answer_is_left_unread(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox
) -> None:
    hung_up, written = asyncio.Event(), 0

    async def never_stops_talking(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while written < 1_000_000_000:
                writer.write(b"x" * 65_536)
                await writer.drain()
                written += 65_536
        finally:
            hung_up.set()

    receiver = await receivers(never_stops_talking)
    job_id = await job_for(receiver.url)
    await office.round()
    assert await log_of(outbox, job_id) == [("delivered", 200, 1)]
    async with asyncio.timeout(WAIT_SECONDS):
        await hung_up.wait()
    assert written < 100_000_000  # the kernels' buffers hold some megabytes


async def test_a_broken_connection_is_tried_again(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox, the_clock_turns: Turn
) -> None:
    receiver = await receivers(resets)
    job_id = await job_for(receiver.url)
    await office.round()
    the_clock_turns(10)
    await office.round()
    assert await log_of(outbox, job_id) == [("delivered", 200, 2), ("failed", None, 1)]


async def test_a_receiver_that_is_down_and_comes_back(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox, the_clock_turns: Turn
) -> None:
    job_id = await job_for(receiver.url)
    await receiver.goes_down()
    await office.round()
    await receiver.start()
    the_clock_turns(10)
    await office.round()
    assert [arrival.job_id for arrival in receiver.arrivals] == [job_id]
    assert await log_of(outbox, job_id) == [("delivered", 200, 2), ("failed", None, 1)]


async def test_silence_ends_at_the_deadline(
    make_office: Callable[..., PostOffice], receivers: Receivers, job_for: JobFor, outbox: Outbox
) -> None:
    receiver = await receivers()
    receiver.script = [receiver.holds]
    job_id = await job_for(receiver.url)
    await make_office(deadline=0.2).round()
    (line,) = await outbox.deliveries(job_id)
    assert (line.outcome, line.status, line.detail) == ("failed", None, "There was no answer within 0.2 s.")


async def test_a_slow_receiver_delays_nobody(
    office: PostOffice, receivers: Receivers, job_for: JobFor, redis_client: redis.Redis, the_clock_turns: Turn
) -> None:
    slow, fast = await receivers(), await receivers()
    slow.script = [slow.holds] * 50
    for _ in range(30):
        await job_for(f"http://slow.test:{slow.port}/")
    await job_for(f"http://fast.test:{fast.port}/")
    await office.relay.step()
    await office.dispatcher.take_up()
    await fast.arrived(1)
    await slow.arrived(PER_HOST)
    assert (len(slow.arrivals), len(fast.arrivals)) == (PER_HOST, 1)
    slow.held.set()
    await office.dispatcher.idle()
    while owed(redis_client):
        the_clock_turns(10)
        await office.round()
    assert len(slow.arrivals) == 30
    assert len({arrival.headers["webhook-id"] for arrival in slow.arrivals}) == 30


async def test_waiting_for_a_turn_costs_no_try(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox, the_clock_turns: Turn
) -> None:
    receiver = await receivers()
    receiver.script = [receiver.holds] * PER_HOST
    jobs = [await job_for(receiver.url) for _ in range(PER_HOST + 1)]
    await office.relay.step()
    await office.dispatcher.take_up()
    await receiver.arrived(PER_HOST)
    receiver.held.set()
    await office.dispatcher.idle()
    the_clock_turns(10)
    await office.round()
    assert [await log_of(outbox, job_id) for job_id in jobs] == [[("delivered", 200, 1)]] * len(jobs)


async def test_a_url_the_operator_no_longer_allows_is_not_dialled(
    make_office: Callable[..., PostOffice], receiver: Receiver, job_for: JobFor, outbox: Outbox
) -> None:
    job_id = await job_for(receiver.url)
    await make_office(ports=(443,)).round()
    assert receiver.arrivals == []
    (line,) = await outbox.deliveries(job_id)
    assert line.outcome == "failed"
    assert "not allowed" in line.detail


async def test_a_job_that_was_deleted_still_tells_its_end(
    office: PostOffice,
    receivers: Receivers,
    job_for: JobFor,
    store: JobStore,
    redis_client: redis.Redis,
    the_clock_turns: Turn,
) -> None:
    """Deleted, or expired, between two tries: readers of jobs find nothing of it, its receiver hears all the same."""
    receiver = await receivers(says("500 Oops"), says("500 Oops"), says("200 OK"))
    job_id = await job_for(receiver.url)
    await office.round()
    for _ in range(2):
        assert await store.forget(job_id)
        assert await store.get(job_id, "ann") is None
        the_clock_turns(AN_HOUR)
        await office.round()
    told = [json.loads(arrival.body)["data"] for arrival in receiver.arrivals]
    assert [each["id"] for each in told] == [job_id] * 3
    assert len({arrival.headers["webhook-id"] for arrival in receiver.arrivals}) == 1
    assert owed(redis_client) == []
    assert kept_of(redis_client, job_id) == [], "with the last message goes what was kept for it"
    assert rq_keys(redis_client) == set()


async def test_the_tries_of_a_deleted_job_end_after_ten(
    office: PostOffice,
    receivers: Receivers,
    job_for: JobFor,
    store: JobStore,
    redis_client: redis.Redis,
    the_clock_turns: Turn,
) -> None:
    receiver = await receivers(*[says("500 Oops")] * (TRIES + 5))
    job_id = await job_for(receiver.url)
    for number in range(TRIES):
        await office.round()
        assert len(receiver.arrivals) == number + 1
        assert await store.forget(job_id)
        the_clock_turns(100 * AN_HOUR)
    await office.round()
    assert len(receiver.arrivals) == TRIES
    assert kept_of(redis_client, job_id) == []


async def test_what_a_deleted_job_owes_is_not_kept_for_ever(
    office: PostOffice, receiver: Receiver, job_for: JobFor, store: JobStore, redis_client: redis.Redis
) -> None:
    """Nobody delivers for a week: the record goes, and the entry that was left without it."""
    job_id = await job_for(receiver.url)
    assert await store.forget(job_id)
    assert 0 < redis_client.pttl(keys.OWED + job_id) <= keys.OWED_MS
    redis_client.delete(keys.OWED + job_id)
    await office.round()
    assert receiver.arrivals == []
    assert (owed(redis_client), kept_of(redis_client, job_id)) == ([], [])
    assert rq_keys(redis_client) == set()


async def test_our_own_mistake_ends_as_well(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox, redis_client: redis.Redis
) -> None:
    """A record that no version can read must neither spin for ever nor vanish."""
    job_id = await job_for(receiver.url)
    redis_client.hset(keys.JOB + job_id, "spec", '{"nothing": "fits"}')
    with due_in(redis_client, FIRST_PAUSE):
        await office.round()
    assert receiver.arrivals == []
    assert await log_of(outbox, job_id) == [("failed", None, 1)]


async def test_a_lost_rq_job_is_made_again(
    office: PostOffice, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis
) -> None:
    await job_for(receiver.url)
    assert await office.relay.step() == 1
    before = redis_client.lrange("rq:queue:webhooks", 0, -1)
    assert await office.relay.step() == 0
    redis_client.delete("rq:queue:webhooks", *rq_keys(redis_client))
    assert await office.relay.step() == 1
    assert redis_client.lrange("rq:queue:webhooks", 0, -1) == before
    await office.round()
    assert len(receiver.arrivals) == 1


async def test_an_id_carried_twice_is_sent_once(
    office: PostOffice, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis
) -> None:
    await job_for(receiver.url)
    await office.relay.step()
    (rq_id,) = redis_client.lrange("rq:queue:webhooks", 0, -1)
    redis_client.rpush("rq:queue:webhooks", rq_id, rq_id)
    await office.round()
    assert len(receiver.arrivals) == 1
    assert redis_client.llen("rq:queue:webhooks") == 0


async def test_a_dead_owner_is_replaced_and_a_stale_one_changes_nothing(
    make_office: Callable[..., PostOffice],
    receivers: Receivers,
    job_for: JobFor,
    outbox: Outbox,
    redis_client: redis.Redis,
    the_clock_turns: Turn,
) -> None:
    """The owner is silent for longer than its lease; another process delivers; then the first one hears a 500."""
    held = asyncio.Event()

    async def fails_late(writer: asyncio.StreamWriter) -> None:
        await held.wait()
        await says("500 Oops")(writer)

    receiver = await receivers(fails_late)
    job_id = await job_for(receiver.url)
    first, second = make_office(worker="w1"), make_office(worker="w2")
    await first.relay.step()
    await first.dispatcher.take_up()
    await receiver.arrived(1)
    the_clock_turns(-AN_HOUR)
    await second.round()
    assert len(receiver.arrivals) == 1, "an owned entry was tried by another"
    the_clock_turns(AN_HOUR + keys.DELIVERY_LEASE_MS / 1000 + 1)
    await second.round()
    assert owed(redis_client) == []
    held.set()
    await first.dispatcher.idle()
    assert owed(redis_client) == []
    assert await log_of(outbox, job_id) == [("failed", 500, 1), ("delivered", 200, 1)]
    assert rq_keys(redis_client) == set()


async def test_a_beat_keeps_what_is_under_way(
    office: PostOffice, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis, the_clock_turns: Turn
) -> None:
    """For as long as when it was taken. That nobody else tries it meanwhile is shown above."""
    receiver.script = [receiver.holds]
    await job_for(receiver.url)
    await office.relay.step()
    await office.dispatcher.take_up()
    await receiver.arrived(1)
    the_clock_turns(3)
    with due_in(redis_client, keys.DELIVERY_LEASE_MS / 1000):
        await office.dispatcher.beat()
    receiver.held.set()
    await office.dispatcher.idle()
    assert owed(redis_client) == []


async def test_given_back_costs_no_try_and_is_due_at_once(
    make_office: Callable[..., PostOffice],
    receivers: Receivers,
    job_for: JobFor,
    outbox: Outbox,
    redis_client: redis.Redis,
) -> None:
    receiver = await receivers()
    receiver.script = [receiver.holds]
    job_id = await job_for(receiver.url)
    first = make_office()
    await first.relay.step()
    await first.dispatcher.take_up()
    await receiver.arrived(1)
    with due_in(redis_client, 0):
        assert await first.dispatcher.give_back() == 1
    assert rq_keys(redis_client) == set()
    await make_office().round()
    assert await log_of(outbox, job_id) == [("delivered", 200, 1)]


async def test_the_same_word_twice_is_logged_once(
    office: PostOffice, job_for: JobFor, receiver: Receiver, outbox: Outbox, redis_client: redis.Redis
) -> None:
    """The connection to Redis broke after the script ran: it is said again."""
    job_id = await job_for(receiver.url)
    await office.relay.step()
    one = await outbox.take("w1", "t1")
    assert one is not None
    line = Delivery(webhook_id="m", event=one.event, number=1, outcome="failed", status=500, at_ms=1, took_ms=2)
    with due_in(redis_client, 5):
        assert await outbox.settle(one, "again", delay_ms=5_000, log=line)
        assert await outbox.settle(one, "again", delay_ms=90_000, log=line), "it was heard the first time"
    assert await outbox.deliveries(job_id) == [line]
    assert redis_client.hget(keys.OUTBOX_STATE + job_id, "job.canceled/0:tries") == "1"


async def test_sent_again_by_hand(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox, the_clock_turns: Turn
) -> None:
    receiver = await receivers(says("200 OK"), says("500 Oops"))
    job_id = await job_for(receiver.url)
    assert await outbox.resend(job_id, "job.succeeded") == "unsent"
    assert await outbox.resend("job_" + "0" * 24, "job.canceled") == "missing"
    await office.round()
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    await office.round()
    the_clock_turns(10)
    await office.round()
    assert len({arrival.headers["webhook-id"] for arrival in receiver.arrivals}) == 1
    assert await log_of(outbox, job_id) == [("delivered", 200, 2), ("failed", 500, 1), ("delivered", 200, 1)]
    timestamps = {moment_of(arrival.body) for arrival in receiver.arrivals}
    assert len(timestamps) == 1, "the moment of the fact moved"


def moment_of(body: bytes) -> str:
    return str(json.loads(body)["timestamp"])


async def test_a_resend_brings_a_planned_try_forward(
    office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox
) -> None:
    receiver = await receivers(says("503 Busy", "Retry-After: 3600"))
    job_id = await job_for(receiver.url)
    await office.round()
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    await office.round()
    assert await log_of(outbox, job_id) == [("delivered", 200, 1), ("failed", 503, 1)]


async def test_the_log_is_bounded(office: PostOffice, receivers: Receivers, job_for: JobFor, outbox: Outbox) -> None:
    receiver = await receivers()
    job_id = await job_for(receiver.url)
    await office.round()
    for _ in range(keys.DELIVERIES_KEPT + 5):
        await outbox.resend(job_id, "job.canceled")
        await office.round()
    assert len(await outbox.deliveries(job_id)) == keys.DELIVERIES_KEPT


async def test_secrets_rotate(
    office: PostOffice, receiver: Receiver, job_for: JobFor, secrets: Secrets, redis_client: redis.Redis
) -> None:
    (first,) = await secrets.current("ann")
    assert await secrets.current("ann") == [first]
    assert await secrets.current("ben") != [first]
    second, still_first = await secrets.rotate("ann")
    assert still_first == first
    await job_for(receiver.url)
    await office.round()
    for secret in (first, second):
        assert verified(receiver.arrivals[0], secret)
    redis_client.hset(keys.WEBHOOK_SECRET + "ann", "previous_until_ms", 1)
    assert await secrets.current("ann") == [second]


async def test_a_leaked_secret_ends_at_once(secrets: Secrets) -> None:
    (leaked,) = await secrets.current("ann")
    (fresh,) = await secrets.rotate("ann", keep_old_for=timedelta())
    assert fresh != leaked
    with pytest.raises(ValueError, match="negative"):
        await secrets.rotate("ann", keep_old_for=timedelta(seconds=-1))


async def test_rq_shows_ids_and_no_secrets(
    office: PostOffice, receiver: Receiver, job_for: JobFor, valkey_url: str
) -> None:
    job_id = await job_for(f"http://127.0.0.1:{receiver.port}/a-secret-path")
    await office.relay.step()
    with redis.Redis.from_url(valkey_url) as raw:
        queue = Queue("webhooks", connection=raw, serializer=JSONSerializer, job_class=DeliveryJob)
        (job,) = queue.get_jobs()
        assert job.id == f"webhook-{job_id}-canceled-0"
        assert (job.func_name, job.args) == ("app.webhooks.relay.deliver", [f"{job_id}/job.canceled/0"])
        stored = str(raw.hgetall(job.key)) + str(job.data)
    assert "secret" not in stored
    await office.round()
    assert len(receiver.arrivals) == 1


async def test_a_foreign_payload_runs_nothing(
    office: PostOffice, receiver: Receiver, valkey_url: str, redis_client: redis.Redis
) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        queue = Queue("webhooks", connection=raw, serializer=JSONSerializer)
        foreign = queue.enqueue("os.system", "exit 1")
        forged = queue.enqueue("os.system", "exit 1", job_id=f"webhook-job_{'0' * 24}-failed-1")
        for job in (foreign, forged):
            with pytest.raises(ForeignPayload):
                DeliveryJob.fetch(job.id, connection=raw, serializer=JSONSerializer)
    await office.round()
    assert receiver.arrivals == []
    assert rq_keys(redis_client) == set()
    assert redis_client.llen("rq:queue:webhooks") == 0


async def test_a_callback_is_a_foreign_payload(valkey_url: str, redis_client: redis.Redis) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        job = Job.create(
            "app.webhooks.relay.deliver", args=["x"], id="webhook-x", connection=raw, serializer=JSONSerializer,
            origin="webhooks", on_success=Callback("os.getcwd"),
        )  # fmt: skip
        job.save()
        with pytest.raises(ForeignPayload):
            DeliveryJob.fetch(job.id, connection=raw, serializer=JSONSerializer)


async def test_a_stock_worker_that_steals_an_id_loses_nothing(
    office: PostOffice, receiver: Receiver, job_for: JobFor, valkey_url: str
) -> None:
    await job_for(receiver.url)
    await office.relay.step()
    with redis.Redis.from_url(valkey_url) as raw:
        worker = SimpleWorker(["webhooks"], connection=raw, serializer=JSONSerializer)
        await asyncio.to_thread(_work_without_signals, worker)
    assert receiver.arrivals == []
    await office.round()
    assert len(receiver.arrivals) == 1


def _work_without_signals(worker: Any) -> None:
    worker.death_penalty_class = TimerDeathPenalty
    worker._install_signal_handlers = lambda: None
    # RQ's thread for commands cannot be ended cleanly inside a process that goes on.
    worker.subscribe = lambda: None
    worker.log.setLevel("CRITICAL")
    worker.work(burst=True)


async def test_an_unreadable_entry_blocks_nobody(
    office: PostOffice, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis
) -> None:
    redis_client.zadd(keys.OUTBOX, {"rubbish": 1, "job_x/../../1": 1})
    await job_for(receiver.url)
    await office.round()
    assert len(receiver.arrivals) == 1
    assert owed(redis_client) == []


async def test_tls_asks_for_the_name_and_checks_it(receivers: Receivers) -> None:
    """The judged address is dialled, yet SNI, certificate and Host are the name's."""
    authority = trustme.CA()
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hook.example.test").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    receiver = Receiver([says("204 No Content", body=b"")])
    server = await asyncio.start_server(receiver._accept, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    sender = Sender(GuardedBackend(allow_cidrs=LOOPBACK, resolver=here), ssl_context=trusts)
    answer = await sender.post(Target("https", "hook.example.test", port, "/"), {}, "{}")
    assert answer == Answer(204)
    assert asked == ["hook.example.test"]
    assert receiver.arrivals[0].headers["host"] == f"hook.example.test:{port}"
    refused = await sender.post(Target("https", "other.example.test", port, "/"), {}, "{}")
    assert refused.verdict is Verdict.FAILED
    assert "certificate" in refused.detail
    await sender.aclose()
    server.close()
    await receiver.goes_down()


async def test_the_environment_has_no_say(
    office: PostOffice, receiver: Receiver, receivers: Receivers, job_for: JobFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await receivers()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    await job_for(receiver.url)
    await office.round()
    assert (len(receiver.arrivals), proxy.arrivals) == (1, [])


async def test_a_cookie_is_not_carried_to_the_next_tenant(
    office: PostOffice, receivers: Receivers, job_for: JobFor
) -> None:
    sets_cookie: Step = says("200 OK", "Set-Cookie: a=b; Path=/")
    receiver = await receivers(sets_cookie)
    await job_for(receiver.url)
    await office.round()
    await job_for(receiver.url, tenant="ben")
    await office.round()
    assert "cookie" not in receiver.arrivals[1].headers
