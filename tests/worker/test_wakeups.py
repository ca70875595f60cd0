"""An idle worker hears of a job, and asks for one now and then all the same. What is asked is counted, not timed."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob
from tests.engine.driving import StoppedClock
from tests.waiting import WAIT_SECONDS, until
from tests.worker.intakes import end
from worker import wakeups
from worker.attempts import Attempts
from worker.intake import Intake
from worker.leases import Leases
from worker.wakeups import Bell, Ears

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient_words")]

FOR_EVER = 10_000.0


class Road:
    """Room for some jobs, which nobody draws; `made` is how many more interactive ones it has room for."""

    def __init__(self, seats: int) -> None:
        self.seats, self.looked, self.made, self.went_on = seats, 0, 0, 0
        self.begun: list[Claim] = []

    @property
    def free_seats(self) -> int:
        self.looked += 1
        return self.seats - len(self.begun)

    @property
    def seats_for_interactive(self) -> int:
        return self.free_seats + self.made

    def go_on(self) -> None:
        self.went_on += 1

    def begin(self, claim: Claim, /) -> None:
        self.begun.append(claim)

    def cancel(self, token: str, /) -> None: ...
    def park(self, token: str, /) -> None: ...


class Counting(Ownership):
    """The real scripts; notes who asks, and hears nothing while it is `deaf`."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.asked, self.deaf = 0, False

    def claim(self, model: str, worker: str, *, holding: int = 0, interactive_only: bool = False) -> Claim | None:
        self.asked += 1
        return super().claim(model, worker, holding=holding, interactive_only=interactive_only)

    def hear(self, worker: str, *, seconds: float) -> str | None:
        word = super().hear(worker, seconds=seconds)
        return None if self.deaf else word


class Worker:
    """A real intake in a thread, whose clock stands still: nothing but word of a job makes it ask twice."""

    def __init__(self, url: str, card: ModelCard, *, seats: int = 1, name: str = "w1") -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.rq = redis.Redis.from_url(url)
        self.ownership, self.road, self.clock = Counting(self.client), Road(seats), StoppedClock()
        self.attempts, self.late = Attempts(), 0
        self.intake = Intake(
            served=[(card, self.road)], name=name, connection=self.rq, ownership=self.ownership,
            leasing=self.ownership, attempts=self.attempts, may_claim=lambda: True, found_late=self.find_late,
            clock=partial(getattr, self.clock, "now"),
        )  # fmt: skip
        # RQ's thread for commands cannot be ended cleanly inside a process that goes on.
        self.intake.subscribe = lambda: None  # type: ignore[method-assign]
        self.thread = threading.Thread(target=partial(self.intake.claim_until_stopped, registered=lambda: None))

    def find_late(self) -> None:
        self.late += 1

    def look(self, times: int) -> None:
        """Have it look for so many reasons to ask."""
        for _ in range(times):
            looked = self.road.looked
            self.attempts.seat_freed()
            until(lambda looked=looked: self.road.looked > looked)  # type: ignore[misc]

    def close(self) -> None:
        self.client.close()
        self.rq.close()


Starts = Callable[..., Worker]


@pytest.fixture
def starts(
    valkey_url: str, redis_client: redis.Redis, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Starts]:
    """Workers that have found the queue empty, and listen."""
    monkeypatch.setattr(Leases, "are_sure", True)
    running: list[Worker] = []

    def start(**options: Any) -> Worker:
        worker = Worker(valkey_url, card, name=f"w{len(running)}", **options)
        running.append(worker)
        worker.thread.start()
        until(lambda: worker.ownership.asked)
        worker.look(1)
        return worker

    yield start
    end((worker.intake, worker.thread) for worker in running)
    for worker in running:
        worker.close()


Submits = Callable[[], Any]


@pytest.fixture
async def submit(valkey_url: str, redis_client: redis.Redis, card: ModelCard) -> AsyncIterator[Submits]:
    spec = resolve(JobRequest(prompt="a red circle", seed=7), card)
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        store = JobStore(client)

        async def one() -> str:
            job = NewJob(new_job_id(), "ann", spec, retention_ms=600_000, metadata={}, webhook=None)
            await store.submit(job, queue_limit=10, tenant_limit=10)
            return job.id

        yield one


async def test_an_idle_worker_asks_once_a_second_by_its_own_clock(starts: Starts) -> None:
    worker = starts()
    for second in range(1, 4):
        worker.look(20)
        assert worker.ownership.asked == second
        worker.clock.now += keys.IDLE_SECONDS
        worker.attempts.seat_freed()
        until(lambda second=second: worker.ownership.asked == second + 1)  # type: ignore[misc]


async def test_word_of_a_job_is_enough(starts: Starts, submit: Submits) -> None:
    worker = starts(seats=2)
    for n in (1, 2):
        await submit()
        until(lambda n=n: len(worker.road.begun) == n)  # type: ignore[misc]
    assert worker.late == 0


async def test_a_job_of_which_no_word_came_is_found_by_asking(starts: Starts, submit: Submits) -> None:
    worker = starts()
    worker.ownership.deaf = True
    await submit()
    worker.look(20)
    assert worker.road.begun == []
    worker.clock.now += keys.IDLE_SECONDS
    worker.attempts.seat_freed()
    until(lambda: worker.road.begun)
    assert worker.late == 1


async def test_one_job_wakes_one_worker_of_many(starts: Starts, submit: Submits) -> None:
    workers = [starts() for _ in range(4)]
    await submit()
    until(lambda: any(worker.road.begun for worker in workers))
    for worker in workers:
        worker.look(5)
    # Each asked when it began, and one of them twice: its one seat is taken then.
    assert sum(worker.ownership.asked for worker in workers) == len(workers) + 1


async def test_each_of_several_jobs_wakes_a_worker(starts: Starts, submit: Submits) -> None:
    workers = [starts() for _ in range(3)]
    for _ in workers:
        await submit()
    until(lambda: all(worker.road.begun for worker in workers))
    assert sum(worker.late for worker in workers) == 0


async def test_word_that_comes_before_the_answer_is_heard(
    starts: Starts, submit: Submits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis tells a worker as soon as it has found nothing, which that worker does not know yet."""
    worker = starts()
    told, found = threading.Event(), Counting.claim

    def claim(self: Counting, model: str, name: str, **how: Any) -> Claim | None:
        answer = found(self, model, name, **how)
        # The next one may come before the test has seen its job submitted, and then finds it.
        if not told.is_set():
            told.set()
            until(lambda: not worker.intake._ears.is_open(model))
        return answer

    monkeypatch.setattr(Counting, "claim", claim)
    worker.clock.now += keys.IDLE_SECONDS
    worker.attempts.seat_freed()
    told.wait()
    await submit()
    until(lambda: worker.road.begun)
    assert worker.late == 0


async def test_a_freed_seat_is_asked_for_at_once(starts: Starts, submit: Submits) -> None:
    worker = starts()
    for _ in range(2):
        await submit()
    until(lambda: worker.road.begun)
    worker.look(3)
    asked = worker.ownership.asked
    assert len(worker.road.begun) == 1
    done = worker.road.begun.pop()
    worker.attempts.close(done.token)
    until(lambda: worker.road.begun)
    assert (worker.ownership.asked, worker.late) == (asked + 1, 0)


async def test_nothing_that_it_waits_for_holds_up_a_stop(
    starts: Starts, valkey_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.intake.IDLE_SECONDS", FOR_EVER)
    heard = threading.Event()
    monkeypatch.setattr(Counting, "hear", lambda self, worker, *, seconds: heard.wait() and None)
    worker = starts()
    worker.intake.request_stop()
    worker.thread.join()
    assert worker.intake._ears._thread.is_alive()
    heard.set()


class Said:
    """Word as the test gives it."""

    def __init__(self) -> None:
        self.words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.reading, self.passed = threading.Event(), queue.SimpleQueue[str]()

    def hear(self, worker: str, *, seconds: float) -> str | None:
        self.reading.set()
        return self.words.get()

    def pass_on(self, model: str) -> None:
        self.passed.put(model)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def ears(said: Said, bell: Bell) -> Iterator[Ears]:
    made = Ears("w1", said, bell)
    made.listen()
    yield made
    made.end()
    said.words.put(None)
    made._thread.join()


def test_word_for_who_cannot_take_a_job_is_passed_on(ears: Ears, said: Said) -> None:
    ears.open("starter")
    said.reading.wait()
    ears.close("starter")
    said.words.put("starter")
    assert said.passed.get() == "starter"


def test_word_of_one_model_leaves_the_ear_for_another_open(ears: Ears, said: Said, bell: Bell) -> None:
    ears.open("starter")
    ears.open("scorer")
    said.words.put("scorer")
    bell.wait(FOR_EVER)
    assert (ears.is_open("starter"), ears.is_open("scorer")) == (True, False)
    said.words.put("starter")
    bell.wait(FOR_EVER)
    assert not ears.is_open("starter")


def test_who_listens_for_nothing_reads_nothing(ears: Ears, said: Said, bell: Bell) -> None:
    for _ in range(3):
        said.reading.clear()
        ears.open("starter")
        said.reading.wait()
        said.words.put("starter")
        bell.wait(FOR_EVER)
    until(lambda: not ears._any.is_set())


def test_an_end_that_comes_just_before_it_rests_is_not_missed(said: Said, bell: Bell) -> None:
    """The thread has found no ear open, and is about to wait until one is."""
    ears = Ears("w1", said, bell)

    class EndsFirst(threading.Event):
        def clear(self) -> None:
            ears.end()
            super().clear()

    ears._any = EndsFirst()
    ears._any.set()
    ears.listen()
    ears._thread.join(WAIT_SECONDS)
    assert not ears._thread.is_alive()


def test_a_redis_that_is_away_ends_no_listening(
    ears: Ears, said: Said, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "IDLE_SECONDS", 0.0)
    tries = iter((redis.ConnectionError("away"), redis.ResponseError("UNBLOCKED")))

    def hear(worker: str, *, seconds: float) -> str | None:
        for error in tries:
            raise error
        return said.words.get()

    monkeypatch.setattr(said, "hear", hear)
    said.words.put("starter")
    ears.open("starter")
    bell.wait(FOR_EVER)
    assert not ears.is_open("starter")


def test_a_signal_ends_a_wait() -> None:
    bell = Bell()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: bell.ring())
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        bell.wait(FOR_EVER)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_bell_that_rang_for_long_rings_once() -> None:
    """Its pipe is full by then, which must hold up nobody."""
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    bell.wait(FOR_EVER)
    waited = threading.Thread(target=bell.wait, args=[FOR_EVER], daemon=True)
    waited.start()
    bell.ring()
    waited.join()
