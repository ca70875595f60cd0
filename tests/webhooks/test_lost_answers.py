"""The outbox over a Redis that runs every script and loses the answer: one message, one line in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf

import pytest
import redis
import redis.asyncio

from app.contract.redis import keys
from app.contract.redis.outbox import Outbox
from app.contract.redis.webhook_secrets import Secrets
from tests.forgetful import Losses
from tests.webhooks.conftest import JobFor, PostOffice
from tests.webhooks.receivers import Receiver, says

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """In the place of the folder's own: each call is made twice, and the first answer forgotten."""
    client = Losses(inf).async_client(valkey_url)
    yield client
    await client.aclose()


async def log_of(outbox: Outbox, job_id: str) -> list[tuple[str, int]]:
    return [(line.outcome, line.number) for line in await outbox.deliveries(job_id)]


async def test_a_message_goes_out_once(
    office: PostOffice,
    receivers: Callable[..., Awaitable[Receiver]],
    job_for: JobFor,
    outbox: Outbox,
    redis_client: redis.Redis,
    the_clock_turns: Callable[[float], None],
) -> None:
    receiver = await receivers(says("500 Oops"), says("200 OK"))
    jobs = [await job_for(receiver.url) for _ in range(2)]
    for _ in range(3):
        await office.round()
        await office.dispatcher.beat()
        the_clock_turns(3_600)
    assert len(receiver.arrivals) == 3
    assert sorted([await log_of(outbox, job) for job in jobs]) == [
        [("delivered", 1)],
        [("delivered", 2), ("failed", 1)],
    ]
    assert redis_client.zcard(keys.OUTBOX) == 0


@pytest.mark.parametrize("others", [0, 1])
async def test_asked_for_again_it_goes_out_once_more_for_each_who_asks(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox, redis_client: redis.Redis, others: int
) -> None:
    """The answer to a resend is lost for so long that the message has gone out, and those of others who asked as well,
    when the call is made again."""
    job_id = await job_for(receiver.url)
    await office.round()
    script = outbox._scripts["resend"]

    async def delivered_in_between(*, args: list[object]) -> object:
        await script(args=args)
        await office.round()
        for other in range(others):
            assert await script(args=[*args[:2], f"another{other}"]) == "sent"
            await office.round()
        return await script(args=args)

    outbox._scripts["resend"] = delivered_in_between
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    await office.round()
    assert len(receiver.arrivals) == 2 + others
    assert redis_client.zcard(keys.OUTBOX) == 0


async def test_the_last_word_does_not_swallow_a_resend(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox
) -> None:
    """A try has ended and its answer is lost; the message is asked for again; then the end is told once more."""
    job_id = await job_for(receiver.url)
    await office.relay.step()
    one = await outbox.take("w1", "t1")
    assert one is not None
    assert await outbox.settle(one, "over")
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    assert await outbox.settle(one, "over"), "it was heard before"
    await office.round()
    assert len(receiver.arrivals) == 1


async def test_the_last_word_does_not_swallow_a_resend_that_was_tried(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox, the_clock_turns: Callable[[float], None]
) -> None:
    """As above; the receiver was away when the message came again, and it is planned once more."""
    job_id = await job_for(receiver.url)
    await office.relay.step()
    one = await outbox.take("w1", "t1")
    assert one is not None
    assert await outbox.settle(one, "over")
    assert await outbox.resend(job_id, "job.canceled") == "sent"
    await office.relay.step()
    other = await outbox.take("w2", "t2")
    assert other is not None
    assert await outbox.settle(other, "again", delay_ms=1_000)
    assert await outbox.settle(one, "over"), "it was heard before"
    the_clock_turns(3_600)
    await office.round()
    assert len(receiver.arrivals) == 1


async def test_a_try_whose_taker_gave_up_is_kept_for_it(
    office: PostOffice, receiver: Receiver, job_for: JobFor, valkey_url: str
) -> None:
    """The process hears of a broken connection, and has the try at its next look, not when a lease has run out."""
    await job_for(receiver.url)
    await office.relay.step()
    async with Losses(1, breaks=True).async_client(valkey_url) as client:
        office.dispatcher._outbox = Outbox(client)
        with pytest.raises(redis.ConnectionError):
            await office.dispatcher.take_up()
        assert await office.dispatcher.take_up() == 1
        await office.dispatcher.idle()
    assert len(receiver.arrivals) == 1


async def test_a_try_that_has_another_owner_is_not_given_again(
    office: PostOffice, receiver: Receiver, job_for: JobFor, outbox: Outbox, the_clock_turns: Callable[[float], None]
) -> None:
    await job_for(receiver.url)
    await office.relay.step()
    first = await outbox.take("w1", "t1")
    assert first is not None
    the_clock_turns(3_600)
    await office.relay.step()
    second = await outbox.take("w2", "t2")
    assert second is not None
    assert second.entry == first.entry
    assert await outbox.take("w1", "t1") is None
    assert await outbox.beat([first, second]) == 1


async def test_a_try_that_could_not_begin_begins_anew(
    office: PostOffice, receiver: Receiver, job_for: JobFor, valkey_url: str
) -> None:
    """Redis breaks off when the secret is asked for: the message is due again at once, not when a lease has run out."""
    await job_for(receiver.url)
    async with Losses(1, breaks=True).async_client(valkey_url) as client:
        office.dispatcher._secrets = Secrets(client)
        await office.round()
        assert receiver.arrivals == []
        await office.round()
    assert len(receiver.arrivals) == 1
