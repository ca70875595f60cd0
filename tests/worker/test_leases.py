"""A living worker keeps what it owns, whatever hangs beside it; and one that is not sure takes no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from pydantic import SecretStr
from rq import Queue

import app.webhooks.main as webhooks
from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Claim, Ownership
from app.contract.redis.store import JobStore, NewJob
from app.webhooks.registration import Registration
from tests.engine.driving import StoppedClock
from tests.waiting import until
from tests.worker.intakes import end
from worker import intake, leases, rq_queues
from worker.attempts import Attempts, Stop
from worker.connections import connect
from worker.draining import Draining
from worker.intake import Intake
from worker.leases import Leases
from worker.settings import WorkerSettings

pytestmark = pytest.mark.anyio

LEASE_SECONDS = keys.LEASE_MS / 1000
"""The real one: tests of other folders make it longer for themselves."""


class Room:
    """An engine with room for whatever is claimed."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def free_seats(self) -> int:
        self.asked += 1
        return 4

    @property
    def seats_for_interactive(self) -> int:
        return self.free_seats

    def begin(self, claim: Claim, /) -> None: ...
    def go_on(self) -> None: ...
    def cancel(self, token: str, /) -> None: ...
    def park(self, token: str, /) -> None: ...


class Silent(Ownership):
    """Says nothing to a beat while `error` is set."""

    error: Exception | None = None

    def beat(self, claims: list[Claim]) -> list[Beat]:
        if self.error:
            raise self.error
        return super().beat(claims)


@pytest.fixture
def books(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, socket_timeout=5) as client:
        yield client


Starts = Callable[[], tuple[Intake, Attempts, Room]]


@pytest.fixture
def starts(books: redis.Redis, redis_client: redis.Redis, card: ModelCard) -> Iterator[Starts]:
    """Runs an intake in a thread until the test is over."""
    running: list[tuple[Intake, threading.Thread]] = []

    def start() -> tuple[Intake, Attempts, Room]:
        attempts, room = Attempts(), Room()
        made = Intake(
            served=[(card, room)], name=f"w{len(running)}", connection=books, ownership=Ownership(redis_client),
            leasing=Ownership(redis_client), attempts=attempts, may_claim=lambda: True,
        )  # fmt: skip
        # RQ's thread for commands cannot be ended cleanly inside a process that goes on.
        made.subscribe = lambda: None  # type: ignore[method-assign]
        thread = threading.Thread(target=partial(made.claim_until_stopped, registered=lambda: None), name=made.name)
        thread.start()
        running.append((made, thread))
        return made, attempts, room

    yield start
    end(running)


@pytest.fixture
async def queued(valkey_url: str, redis_client: redis.Redis, card: ModelCard) -> str:
    return await queue(valkey_url, card)


async def queue(valkey_url: str, card: ModelCard) -> str:
    spec = resolve(JobRequest(prompt="a red circle", seed=7), card)
    job = NewJob(new_job_id(), "ann", spec, retention_ms=600_000, metadata={}, webhook=None)
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        await JobStore(client).submit(job, queue_limit=10, tenant_limit=10)
    return job.id


def test_more_that_is_known_of_the_model_is_announced(
    starts: Starts, redis_client: redis.Redis, card: ModelCard
) -> None:
    intake, _, _ = starts()
    intake.leases.announce_from_now_on(card.model_copy(update={"loras": (Adapter(name="ink", sha256="a" * 64),)}))
    until(lambda: "a" * 64 in (redis_client.hget(keys.CARDS, card.name) or ""))


def test_one_worker_of_many_looks_for_dead_ones(books: redis.Redis, redis_client: redis.Redis) -> None:
    queue, names = Queue("generate-m", connection=books), [f"rq:worker:dead-{number}" for number in range(4)]
    redis_client.sadd("rq:workers", *names)
    redis_client.sadd("rq:workers:generate-m", *names)
    rq_queues.forget_dead_workers(queue, chance=0.25)
    assert redis_client.scard("rq:workers:generate-m") == 4, "three of four leave it to the fourth"
    rq_queues.forget_dead_workers(queue, chance=0.24)
    assert redis_client.scard("rq:workers:generate-m") == redis_client.scard("rq:workers") == 0
    redis_client.sadd("rq:workers:generate-m", names[0])
    rq_queues.forget_dead_workers(queue, chance=0.99)
    assert redis_client.scard("rq:workers:generate-m") == 0, "who is alone leaves it to nobody"


async def test_rqs_books_that_hang_hold_up_no_beat(
    starts: Starts, queued: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of RQ never answers again once the worker is registered: leases are extended all the same."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(intake, "BOOKS_SECONDS", 0.01)
    hangs, asked = threading.Event(), threading.Event()
    made, attempts, _ = starts()
    until(attempts.claims)

    def hang(*args: Any, **options: Any) -> Any:
        asked.set()
        hangs.wait()

    monkeypatch.setattr(made, "heartbeat", hang)
    until(asked.is_set)
    ends: set[Any] = set()
    until(lambda: ends.add(redis_client.zscore(keys.LEASES, queued)) or len(ends) > 3)
    hangs.set()


async def test_whoever_keeps_a_lease_gives_a_call_up_in_a_fraction_of_it() -> None:
    """With two tries on new connections inside half a lease, and with nobody else on its connections."""
    url = "redis://127.0.0.1:1/0"
    settings = WorkerSettings(redis_url=SecretStr(url), redis_durability="ignore")
    worker = connect(settings)
    pools = {id(client.connection_pool) for client in (worker.commands, worker.leases, worker.rq)}
    assert len(pools) == 3
    assert 2 * (_waits_of(worker.leases) + leases.AGAIN_SECONDS) < LEASE_SECONDS / 2
    async with webhooks._clients(url) as (client, leasing, rq):
        assert len({id(each.connection_pool) for each in (client, leasing, rq)}) == 3
        assert 2 * (_waits_of(leasing) + webhooks.BEAT_SECONDS) < keys.DELIVERY_LEASE_MS / 1000


def _waits_of(client: Any) -> float:
    options = client.connection_pool.connection_kwargs
    assert options["retry"].get_retries() == 0
    return max(float(options["socket_timeout"]), float(options["socket_connect_timeout"]))


async def test_rqs_client_keeps_the_timeout_it_was_given(
    starts: Starts, books: redis.Redis, redis_client: redis.Redis
) -> None:
    starts()
    registration = Registration(books, "webhooks-1")
    registration.renew()
    registration.leave()
    assert books.connection_pool.connection_kwargs["socket_timeout"] == 5


def leases_of(ownership: Ownership, attempts: Attempts, card: ModelCard, clock: StoppedClock, **stop: Any) -> Leases:
    return Leases(
        ownership, attempts, cards=[card], worker="w1",
        stop=stop.get("stop", lambda claim, reason: None), clock=partial(getattr, clock, "now"),
    )  # fmt: skip


async def test_half_a_lease_after_the_last_good_beat_it_is_not_sure(redis_client: redis.Redis, card: ModelCard) -> None:
    ownership, clock = Silent(redis_client), StoppedClock()
    kept = leases_of(ownership, Attempts(), card, clock)
    kept.beat()
    ownership.error = redis.TimeoutError("half dead")
    clock.now += keys.LEASE_MS / 2000 - 1
    with pytest.raises(redis.TimeoutError):
        kept.beat()
    assert kept.are_sure
    clock.now += 2
    assert not kept.are_sure
    ownership.error = None
    kept.beat()
    assert kept.are_sure


async def test_who_is_not_sure_takes_no_job(starts: Starts, queued: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leases, "are_sure", False)
    _, attempts, room = starts()
    until(lambda: room.asked > 5)
    assert attempts.claims() == []
    monkeypatch.setattr(Leases, "are_sure", True)
    until(attempts.claims)


@pytest.mark.parametrize("error", [redis.TimeoutError("half dead"), ValueError("a mistake of ours")])
async def test_the_thread_that_beats_ends_for_nothing(
    redis_client: redis.Redis, card: ModelCard, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    ownership, over = Silent(redis_client), threading.Event()
    ownership.error = error
    tries: list[Exception] = []
    thread = threading.Thread(target=leases_of(ownership, Attempts(), card, StoppedClock()).keep, args=[over])
    monkeypatch.setattr(ownership, "beat", lambda claims: tries.append(error) or _raise(error))
    thread.start()
    until(lambda: len(tries) > 3)
    over.set()
    thread.join()


def _raise(error: Exception) -> Any:
    raise error


async def test_what_a_beat_learns_is_passed_on(redis_client: redis.Redis, card: ModelCard, queued: str) -> None:
    ownership, attempts, stopped = Ownership(redis_client), Attempts(), list[tuple[str, Stop]]()
    claim = ownership.claim(card.name, "w1")
    assert claim is not None
    attempts.open(claim)
    kept = leases_of(
        ownership, attempts, card, StoppedClock(), stop=lambda claim, reason: stopped.append((claim.id, reason))
    )
    kept.beat()
    assert stopped == []
    redis_client.hset(keys.JOB + queued, "cancel", 1)
    kept.beat()
    redis_client.hset(keys.JOB + queued, "token", "another's")
    kept.beat()
    assert stopped == [(queued, Stop.CANCELED), (queued, Stop.LOST)]


AtWork = tuple[Intake, Attempts, Claim]


@pytest.fixture
async def at_work(starts: Starts, queued: str, monkeypatch: pytest.MonkeyPatch) -> AtWork:
    """A worker that has a job, and whose beats are the test's alone: the answer to one that was asked before would be
    said after it."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 3_600.0)
    made, attempts, _ = starts()
    [claim] = until(attempts.claims)
    return made, attempts, claim


def hears(made: Intake, way: str, word: str) -> None:
    if way == "a beat":
        made.leases.beat()
    else:
        made.handle_payload({"data": b'{"command":"%s"}' % word.encode()})


@pytest.mark.parametrize("way", ["a beat", "a command"])
async def test_a_drained_worker_takes_nothing_more_and_ends_with_its_last_job(
    at_work: AtWork, redis_client: redis.Redis, valkey_url: str, card: ModelCard, way: str
) -> None:
    made, attempts, claim = at_work
    redis_client.zadd(keys.DRAINING, {made.name: 1})
    hears(made, way, "drain")
    # Whatever it asked for before it was drained has been answered.
    with made._claiming:
        pass
    later = await queue(valkey_url, card)
    assert any(thread.name == made.name for thread in threading.enumerate()), "it has a job"
    assert Ownership(redis_client).succeed(claim, [], timings={}, warnings=[], steps=1)
    attempts.close(claim.token)
    until(lambda: not any(thread.name == made.name for thread in threading.enumerate()))
    assert (made.was_drained, made.stops_asked) == (True, 0)
    assert redis_client.hget(keys.JOB + later, "status") == "queued"
    assert redis_client.zscore(keys.ALIVE + card.name, made.name) is None, "it says so before it goes"


@pytest.mark.parametrize("way", ["a beat", "a command"])
async def test_a_drain_that_was_taken_back_is_forgotten(
    at_work: AtWork, redis_client: redis.Redis, valkey_url: str, card: ModelCard, way: str
) -> None:
    made, attempts, claim = at_work
    redis_client.zadd(keys.DRAINING, {made.name: 1})
    hears(made, "a command", "drain")
    redis_client.delete(keys.DRAINING)
    hears(made, way, "undrain")
    await queue(valkey_url, card)
    until(lambda: len(attempts.claims()) == 2)
    assert Ownership(redis_client).succeed(claim, [], timings={}, warnings=[], steps=1)


async def test_a_drain_that_was_taken_back_unheard_lets_nobody_leave(
    starts: Starts, redis_client: redis.Redis, valkey_url: str, card: ModelCard
) -> None:
    """The worker asks before it goes. Whoever took the drain back was told that it serves."""
    made, attempts, _ = starts()
    made.handle_payload({"data": b'{"command":"drain"}'})
    until(lambda: not made.is_draining)
    await queue(valkey_url, card)
    until(attempts.claims)


def test_what_a_beat_read_before_a_command_came_is_old() -> None:
    draining = Draining()
    sent = draining.commands
    draining.command(True)
    draining.beat(False, commands=sent)
    assert draining.is_wanted
    draining.beat(False, commands=draining.commands)
    assert not draining.is_wanted


async def test_who_has_left_announces_nothing_more(redis_client: redis.Redis, card: ModelCard) -> None:
    """A model is loaded while the worker leaves."""
    kept = leases_of(Ownership(redis_client), Attempts(), card, StoppedClock())
    kept.beat()
    kept.leave()
    kept.announce(card.model_copy(update={"name": "other"}))
    kept.announce(card)
    kept.beat()
    assert redis_client.keys(keys.ALIVE + "*") == []
    again = leases_of(Ownership(redis_client), Attempts(), card, StoppedClock())
    again.beat()
    assert not again.leave_drained(), "nobody wants it to leave"
    assert redis_client.keys(keys.ALIVE + "*") == [keys.ALIVE + card.name]
    redis_client.zadd(keys.DRAINING, {"w1": 1})
    assert again.leave_drained()
    again.announce(card)
    assert redis_client.keys(keys.ALIVE + "*") == []


async def test_what_a_worker_says_of_itself_costs_no_lease(
    redis_client: redis.Redis, card: ModelCard, queued: str
) -> None:
    ownership, attempts = Ownership(redis_client), Attempts()
    claim = ownership.claim(card.name, "w1")
    assert claim is not None
    attempts.open(claim)
    clock = StoppedClock()
    kept = leases_of(ownership, attempts, card, clock)
    kept._note = lambda: _raise(ValueError("a mistake of ours"))
    redis_client.zadd(keys.LEASES, {queued: 1})
    kept.beat()
    assert redis_client.zscore(keys.LEASES, queued) > 1
    assert redis_client.zscore(keys.ALIVE + card.name, "w1") is not None
    assert redis_client.get(keys.WORKER + "w1") is None
