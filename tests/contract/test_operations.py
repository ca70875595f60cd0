"""What operators change: models paused, workers drained, and a line of the audit for each. Each answer is lost once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
import redis.asyncio

from app.contract.messages.audit import Change, Operator
from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys, rq_names
from app.contract.redis.model_demand import ModelDemand
from app.contract.redis.operations import Operations
from app.contract.redis.overview import Overview
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore, NewJob
from tests.forgetful import Losses
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.anyio

LIMITS = {"queue_limit": 100, "tenant_limit": 100}
OPS = Operator("ops", "0123456789", "api")
NOTE = WorkerNote(
    version="1", device="cpu", seats=4, free_seats=4, jobs=0, rows_per_second=0, activity="idle", uptime_seconds=1
)


@pytest.fixture
def operations(forgetful: redis.asyncio.Redis) -> Operations:
    return Operations(forgetful)


async def lines(operations: Operations) -> list[tuple[str, str, str]]:
    return [(each.change.action, each.change.target, each.change.outcome) for each in await operations.audit(limit=100)]


@pytest.mark.usefixtures("patient_words")
async def test_a_pause_and_its_end(
    operations: Operations,
    store: JobStore,
    ownership: Ownership,
    redis_client: redis.Redis,
    card: ModelCard,
    new_job: Callable[..., NewJob],
) -> None:
    assert not await operations.pause("starter", OPS, accepts=True), "nobody has announced it"
    assert await lines(operations) == []
    ownership.announce(card, "w1")
    await store.submit(new_job(), **LIMITS)
    assert await operations.pause("starter", OPS, accepts=True)
    assert await operations.pause("starter", OPS, accepts=True), "said again, it changes nothing"
    assert ownership.claim("starter", "w1") is None
    assert ModelDemand(redis_client).look(["starter"])["starter"].waiting == 0, "nobody loads it for a queue that rests"
    paused = (await store.models.all())["starter"].paused
    assert paused is not None
    assert (paused.accepts, paused.reason, paused.left_seconds) == (True, "", None)
    assert ownership.hear("w1", seconds=0.01) is None
    assert await operations.resume("starter", OPS)
    assert ownership.hear("w1", seconds=0.01) == "starter", "one that sleeps is told"
    assert await operations.resume("starter", OPS), "said again, it changes nothing"
    assert ownership.claim("starter", "w1") is not None
    assert await lines(operations) == [
        ("resume", "starter", "claimed again"),
        ("pause", "starter", "jobs come in and wait"),
    ]


async def test_an_attempt_whose_answer_was_lost_is_given_in_a_pause_too(
    operations: Operations, store: JobStore, valkey_url: str, card: ModelCard, new_job: Callable[..., NewJob]
) -> None:
    """It is owned already: its worker would hold a seat for nothing, and the job would cost an attempt."""
    losses = Losses(1, breaks=True)
    ownership = Ownership(losses.client(valkey_url))
    await store.submit(new_job(), **LIMITS)
    with pytest.raises(redis.ConnectionError):
        ownership.claim("starter", "w1")
    ownership.announce(card, "w1")
    await operations.pause("starter", OPS, accepts=False)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert claim.attempt == 1


async def test_a_worker_is_drained(
    operations: Operations, overview: Overview, ownership: Ownership, redis_client: redis.Redis, card: ModelCard
) -> None:
    assert await operations.drain("w1", OPS) == "missing"
    ownership.announce(card, "w1")
    assert await operations.drain("w1", OPS) == "deaf"
    assert await overview.draining() == 0
    assert ownership.announce(card, "w1", note=NOTE) is False
    with redis_client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(rq_names.RQ_COMMANDS + "w1")
        heard.get_message(timeout=WAIT_SECONDS)
        assert await operations.drain("w1", OPS) == "draining"
        assert 0 < redis_client.pttl(keys.DRAINING) <= keys.DRAINED_MS, "also if nobody is ever drained again"
        message = heard.get_message(timeout=WAIT_SECONDS)
    assert message is not None
    assert message["data"] == '{"command":"drain"}'
    assert ownership.announce(card, "w1", note=NOTE) is True
    assert await overview.draining() == 1
    ownership.leave("starter", "w1")
    assert await operations.drain("w1", OPS) == "left"
    assert await overview.draining() == 0
    ownership.starting("w2", "loading the model")
    assert await operations.drain("w2", OPS) == "draining", "it leaves as soon as it has started"
    assert [target for _, target, _ in await lines(operations)] == ["w2", "w1"]
    redis_client.zadd(keys.DRAINING, {"w1": 1})
    ownership.starting("w3", "loading the model")
    await operations.drain("w3", OPS)
    assert await operations.drain("w1", OPS) == "missing", "after a day nobody asks any more"


async def test_a_drain_is_taken_back(
    operations: Operations, overview: Overview, ownership: Ownership, redis_client: redis.Redis, card: ModelCard
) -> None:
    assert await operations.undrain("w1", OPS) == "missing"
    ownership.announce(card, "w1", note=NOTE)
    assert await operations.undrain("w1", OPS) == "serving"
    assert await lines(operations) == [], "nothing was changed"
    await operations.drain("w1", OPS)
    with redis_client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(rq_names.RQ_COMMANDS + "w1")
        heard.get_message(timeout=WAIT_SECONDS)
        assert await operations.undrain("w1", OPS) == "serving"
        message = heard.get_message(timeout=WAIT_SECONDS)
    assert message is not None
    assert message["data"] == '{"command":"undrain"}'
    assert ownership.announce(card, "w1", note=NOTE) is False
    assert await overview.draining() == 0
    assert not ownership.leave_drained(["starter"], "w1"), "nobody wants it to leave any more"
    await operations.drain("w1", OPS)
    assert ownership.leave_drained(["starter"], "w1")
    assert ownership.leave_drained(["starter"], "w1"), "said again, because the answer was lost"
    assert await operations.undrain("w1", OPS) == "left", "from then on it cannot be taken back"
    ownership.starting("w2", "loading the model")
    await operations.drain("w2", OPS)
    assert await operations.undrain("w2", OPS) == "starting"
    assert [(action, target) for action, target, _ in await lines(operations)] == [
        ("undrain", "w2"), ("drain", "w2"), ("drain", "w1"), ("undrain", "w1"), ("drain", "w1"),
    ]  # fmt: skip


async def test_a_worker_that_left_while_it_loaded_a_model_is_not_told_to_go_on(
    operations: Operations, ownership: Ownership, overview: Overview, card: ModelCard, redis_client: redis.Redis
) -> None:
    """It is said to start for a while yet."""
    ownership.announce(card, "w1", note=NOTE)
    ownership.starting("w1", "loading another model")
    await operations.drain("w1", OPS)
    assert ownership.leave_drained(["starter"], "w1")
    assert ownership.leave_drained(["starter"], "w1"), "said again, because the answer was lost"
    ownership.starting("w1", "loading another model")
    assert await operations.undrain("w1", OPS) == "left"
    assert await operations.drain("w1", OPS) == "left"
    ownership.announce(card, "w2", note=NOTE)
    await operations.drain("w2", OPS)
    assert redis_client.zscore(keys.DRAINING, "w1") is not None, "it is remembered"
    assert [(action, target) for action, target, _ in await lines(operations)] == [("drain", "w2"), ("drain", "w1")]


async def test_a_change_of_many_steps_is_one_line(operations: Operations) -> None:
    """It is there from the first step on, so that it is known what somebody had begun who died over it."""
    line = await operations.begin(Change.by(OPS, "cancel", "ann", "begun"))
    [begun] = await operations.audit(limit=10)
    assert (begun.change.target, begun.change.outcome) == ("ann", "begun")
    await operations.end(line, "3 canceled")
    [ended] = await operations.audit(limit=10)
    assert (ended.id, ended.change) == (begun.id, begun.change.model_copy(update={"outcome": "3 canceled"}))
    await operations.end(await operations.begin(Change.by(OPS, "cancel", "bob", "begun")), "")
    assert [each.id for each in await operations.audit(limit=10)] == [begun.id], "nothing came of it"


async def test_what_was_changed_elsewhere_is_one_line(operations: Operations) -> None:
    await operations.note(Change.by(Operator(), "keys", "0123456789", "revoked"))
    await operations.note(Change.by(OPS, "cancel", "ann", "3 canceled, 0 told to stop"))
    newest, oldest = await operations.audit(limit=10)
    assert (newest.change.tenant, newest.change.via, oldest.change.via) == ("ops", "api", "machine")
    assert newest.at_ms >= oldest.at_ms > 1_600_000_000_000
    assert [each.id for each in await operations.audit(limit=10, before=(newest.at_ms, newest.id))] == [oldest.id]
