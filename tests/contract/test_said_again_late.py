"""A script has run, its answer is lost, and before the call is made again others have undone what it did: it stays so.

How each script answers a call that is made again at once is in test_lost_answers.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta

import pytest
import redis
import redis.asyncio

from app.contract.messages.audit import Change, Operator
from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError, cost_of
from app.contract.redis import keys
from app.contract.redis.models import Models
from app.contract.redis.operations import Operations
from app.contract.redis.ownership import Ownership
from app.contract.redis.quota import Budget
from app.contract.redis.scripts import source
from app.contract.redis.store import JobStore, NewJob
from app.contract.redis.webhook_secrets import Secrets
from app.edge.keyring import Keyring
from app.jobs.aliases import Aliases
from tests.contract.test_operations import NOTE
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio

A_DAY_MS = 86_400_000
Late = Callable[[Callable[[], Awaitable[object]]], redis.asyncio.Redis]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}
BUDGET = Budget("cost:ann", 100)
OPS, OTHERS = Operator("ops", "0123456789", "api"), Operator("others", "9876543210", "api")


@pytest.fixture(autouse=True)
def _a_machine_that_stands_still_says_nothing_too_late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keys, "SAID_MS", A_DAY_MS)
    source.cache_clear()
    yield
    source.cache_clear()


@pytest.fixture
async def client(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """That of the others, whose answers come."""
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def late(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[Late]:
    """A client whose next call is made again when the others have had their turn."""
    losses = Losses()
    client = losses.async_client(valkey_url)

    def said_again_after(others: Callable[[], Awaitable[object]]) -> redis.asyncio.Redis:
        losses.left, losses.meanwhile = 1, others
        return client

    yield said_again_after
    await client.aclose()


@pytest.fixture
def deleted(store: JobStore) -> Callable[[str], Awaitable[None]]:
    """A job is called off and deleted by somebody who found it in the list."""

    async def delete(job_id: str) -> None:
        assert await store.cancel(job_id, "ann") == "canceled"
        assert await store.forget(job_id)

    return delete


def left_of(redis_client: redis.Redis, job_id: str) -> list[str]:
    """What is kept of the job, but for that there was one."""
    queued = [job_id] if redis_client.zscore(keys.QUEUED + "starter", job_id) is not None else []
    named: list[str] = redis_client.keys(f"*{job_id}*")  # type: ignore[assignment]
    return queued + [key for key in named if key != keys.SAID + job_id]


def charged(redis_client: redis.Redis) -> int:
    return int(redis_client.hget(keys.LIMITS + BUDGET.counter, "used") or 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, "k" * 64])
async def test_a_job_that_was_deleted_is_not_drawn_after_all(
    late: Late,
    new_job: Callable[..., NewJob],
    deleted: Callable[[str], Awaitable[None]],
    redis_client: redis.Redis,
    key: str | None,
) -> None:
    job = new_job()
    store = JobStore(late(lambda: deleted(job.id)))
    answer = await store.submit(job, idempotency_key=key, body_hash="aa", budget=BUDGET, **LIMITS)
    assert (answer.outcome, answer.id) == ("created", job.id)
    assert answer.record is not None, "as it came in"
    assert answer.record.created_ms > 0
    assert left_of(redis_client, job.id) == []
    assert charged(redis_client) == pytest.approx(cost_of(job.spec), abs=1)
    assert await store.accepted._missing(list(store.accepted._jobs)) == [], "nobody looks for it"
    assert 0 < redis_client.pttl(keys.SAID + job.id) <= keys.SAID_MS  # type: ignore[operator]


async def test_what_came_in_long_ago_leaves_no_word(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    redis_client.hincrby(keys.JOB + job.id, "created_ms", -keys.SAID_MS)
    await store.cancel(job.id, "ann")
    await store.forget(job.id)
    assert redis_client.keys(f"*{job.id}*") == []


async def test_a_job_that_was_run_again_and_deleted_is_not_run_once_more(
    late: Late,
    store: JobStore,
    ownership: Ownership,
    new_job: Callable[..., NewJob],
    deleted: Callable[[str], Awaitable[None]],
    redis_client: redis.Redis,
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.fail(claim, JobError(slug="internal", detail="no"))

    async def delete_the_new_one() -> None:
        await deleted(str(redis_client.hget(keys.JOB + job.id, "retried_as")))

    mine = JobStore(late(delete_the_new_one))
    answer = await mine.retry(job.id, "ann", budget=BUDGET, **LIMITS)
    assert answer.outcome == "created"
    assert await mine.accepted._missing(list(mine.accepted._jobs)) == [], "nobody looks for it"
    assert left_of(redis_client, answer.id) == []
    assert charged(redis_client) == pytest.approx(cost_of(job.spec), abs=1)
    assert (await store.retry(job.id, "ann", budget=BUDGET, **LIMITS)).outcome == "created", "another call does"


async def test_a_key_that_was_revoked_is_not_made_again(late: Late, client: redis.asyncio.Redis) -> None:
    async def revoke_all() -> None:
        keyring = Keyring(client)
        for info in await keyring.all():
            assert await keyring.revoke(info.id)
        assert await keyring.open()

    key, _ = await Keyring(late(revoke_all)).create("ann")
    assert await Keyring(client).find(key) is None
    assert await Keyring(client).open_until() is not None, "and the service stays open"


async def test_a_revocation_does_not_close_what_was_opened_since(late: Late, client: redis.asyncio.Redis) -> None:
    _, info = await Keyring(client).create("ann")
    assert await Keyring(late(lambda: Keyring(client).open())).revoke(info.id)
    assert await Keyring(client).open_until() is not None


async def test_a_rotation_does_not_undo_those_that_came_since(late: Late, client: redis.asyncio.Redis) -> None:
    """The last of which ends what has leaked."""
    theirs = list[str]()

    async def rotate() -> None:
        theirs[:] = await Secrets(client).rotate("ann", keep_old_for=timedelta())

    assert await Secrets(late(rotate)).rotate("ann") == theirs
    assert await Secrets(client).current("ann") == theirs


@pytest.mark.parametrize(
    ("before", "said", "since"),
    [
        ("resume", "pause", "resume"),
        ("pause", "resume", "pause"),
        ("undrain", "drain", "undrain"),
        ("drain", "undrain", "drain"),
    ],
)
async def test_what_an_operator_changed_back_stays_so(
    late: Late, client: redis.asyncio.Redis, ownership: Ownership, card: ModelCard, before: str, said: str, since: str
) -> None:
    """And so does what the audit says: its latest line is of what holds."""
    ownership.announce(card, "w1", note=NOTE)

    async def change(client: redis.asyncio.Redis, what: str, by: Operator) -> None:
        operations = Operations(client)
        match what:
            case "pause":
                assert await operations.pause("starter", by, accepts=True)
            case "resume":
                assert await operations.resume("starter", by)
            case "drain":
                assert await operations.drain("w1", by) == "draining"
            case "undrain":
                assert await operations.undrain("w1", by) == "serving"

    await change(client, before, OTHERS)
    await change(late(lambda: change(client, since, OTHERS)), said, OPS)
    assert (await Operations(client).audit(limit=1))[0].change.action == since
    is_paused = bool((await JobStore(client).models.all())["starter"].paused)
    assert is_paused == (since == "pause")
    assert ownership.announce(card, "w1", note=NOTE) == (since == "drain")


async def test_a_name_that_another_operator_gave_since_stays(late: Late, client: redis.asyncio.Redis) -> None:
    """Be it that the name was given, or taken back, and nobody heard so. The audit's latest line is of what holds."""
    aliases = Aliases(Models(client))

    async def given(model: str) -> None:
        await aliases.give("x", model, OTHERS)

    for name in ("starter", "other", "third"):
        await client.hset(keys.CARDS, name, "{}")  # type: ignore[misc]
    await Aliases(Models(late(lambda: given("other")))).give("x", "starter", OPS)
    assert await Models(client).aliases() == {"x": "other"}
    assert await Aliases(Models(late(lambda: given("third")))).take_back("x", OPS) == "other"
    assert await Models(client).aliases() == {"x": "third"}
    assert (await Operations(client).audit(limit=1))[0].change.outcome == "means third"


async def test_a_model_that_came_back_since_is_not_forgotten(late: Late, client: redis.asyncio.Redis) -> None:
    await client.hset(keys.CARDS, "starter", "{}")  # type: ignore[misc]

    async def comes_back() -> None:
        await client.hset(keys.CARDS, "starter", "{}")  # type: ignore[misc]

    line = Change.by(OPS, "models forget", "starter", "forgotten").line()
    assert await Models(late(comes_back)).forget("starter", line=line) == ("forgotten", 0)
    assert await client.hexists(keys.CARDS, "starter")  # type: ignore[misc]
