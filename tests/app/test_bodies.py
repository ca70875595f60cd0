"""What the guard keeps of large bodies: who waits for space gets it in turn, and nobody's is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import anyio
import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.edge.bodies import BATCH, SMALL, Arrivals, Body, BodyRule, BodyRules
from app.edge.body_queues import Space, Turns
from app.edge.errors import BodyTooLarge, MalformedJson, TooManyUploads

pytestmark = pytest.mark.anyio


async def test_space_is_given_in_turn() -> None:
    space, served = Space(10), list[str]()

    async def take(name: str, amount: int) -> None:
        await space.take(amount, seconds=3_600)
        served.append(name)

    await take("first", 8)
    tasks = [asyncio.create_task(take(name, amount)) for name, amount in (("large", 9), ("small", 1))]
    await asyncio.sleep(0)
    assert served == ["first"], "the small one would fit, and has come later"
    space.give(8)
    await asyncio.gather(*tasks)
    assert served == ["first", "large", "small"]


async def test_who_gives_up_takes_nothing() -> None:
    space = Space(10)
    await space.take(10, seconds=3_600)
    with pytest.raises(TooManyUploads):
        await space.take(1, seconds=0)
    leaving = asyncio.create_task(space.take(10, seconds=3_600))
    behind = asyncio.create_task(space.take(5, seconds=3_600))
    await asyncio.sleep(0)
    leaving.cancel()
    space.give(5)
    await behind
    space.give(10)
    await space.take(10, seconds=0)


async def test_who_leaves_in_the_moment_of_being_served_gives_it_back() -> None:
    space = Space(10)
    await space.take(10, seconds=3_600)
    leaving = asyncio.create_task(space.take(10, seconds=3_600))
    await asyncio.sleep(0)
    space.give(10)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await space.take(10, seconds=0)


async def test_who_give_up_in_the_same_round_are_told_so_and_take_nothing() -> None:
    """Both turns are canceled before the first of them hears of it, and the second would fit into what is free."""
    space = Space(100)
    await space.take(95, seconds=3_600)
    ends = await asyncio.gather(*(space.take(amount, seconds=0) for amount in (10, 5)), return_exceptions=True)
    assert [type(end) for end in ends] == [TooManyUploads, TooManyUploads]
    space.give(95)
    await space.take(100, seconds=0)


async def test_what_becomes_free_in_the_round_of_a_cancellation_goes_to_the_next() -> None:
    space = Space(10)
    await space.take(10, seconds=3_600)
    leaving, behind = (asyncio.create_task(space.take(10, seconds=3_600)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    space.give(10)
    assert await behind == 10
    with pytest.raises(asyncio.CancelledError):
        await leaving
    space.give(10)
    await space.take(10, seconds=0)


class Rounds:
    """Counts the rounds of the event loop, and in which of them something happened."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 0
        self.noted: list[int] = []
        self._next()

    def _next(self) -> None:
        self._now += 1
        self._loop.call_soon(self._next)

    def note(self) -> None:
        self.noted.append(self._now)


def sender(pieces: int, size: int, note: Callable[[int], None]) -> Receive:
    """Sends so many pieces of so many bytes, as soon as each is asked for. `note` hears how many came before."""
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        note(asked)
        asked += 1
        return {"type": "http.request", "body": bytes(size), "more_body": asked < pieces}

    return receive


async def test_large_bodies_are_read_in_turn_one_piece_a_round() -> None:
    rounds, arrivals, order = Rounds(), Arrivals(seconds=3_600), list[str]()

    def note(name: str, before: int) -> None:
        # The first piece makes it a large one.
        if before:
            rounds.note()
            order.append(name)

    senders = [sender(6, SMALL + 1, partial(note, name)) for name in "abcd"]
    bodies = await asyncio.gather(*(arrivals.read(each, Headers(), most=10**6) for each in senders))
    assert [body.size for body in bodies] == [6 * (SMALL + 1)] * 4
    assert len(set(rounds.noted)) == len(rounds.noted) == 20
    assert order == [*"abcd"] * 5
    for body in bodies:
        body.close()


async def test_what_is_read_to_be_thrown_away_takes_turns_too() -> None:
    rounds, arrivals = Rounds(), Arrivals(seconds=3_600)
    senders = [sender(3, SMALL + 1, lambda before: rounds.note() if before else None) for _ in range(4)]
    await asyncio.gather(*(arrivals.drain(each, Headers(), most=10**6, seconds=3_600) for each in senders))
    assert len(set(rounds.noted)) == len(rounds.noted) == 8


async def test_who_leaves_keeps_nobody_from_a_turn() -> None:
    turns = Turns()
    taking = [asyncio.create_task(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    taking[1].cancel()
    await asyncio.gather(*taking, return_exceptions=True)
    assert [each.cancelled() for each in taking] == [False, True, False]
    await turns.take()


async def test_bodies_are_written_by_threads_of_their_own() -> None:
    """The others are for those who look at pictures."""
    arrivals, limiter = Arrivals(seconds=3_600), anyio.to_thread.current_default_thread_limiter()
    busy = list[float]()
    senders = [sender(3, BATCH, lambda before: busy.append(limiter.borrowed_tokens)) for _ in range(4)]
    bodies = await asyncio.gather(*(arrivals.read(each, Headers(), most=4 * BATCH) for each in senders))
    assert set(busy) == {0}
    for body in bodies:
        body.close()


async def body_of(data: bytes) -> Body:
    body = Body()
    await body.add(data)
    return body


NAMES = frozenset({"b64"})


async def test_long_strings_are_taken_out_by_name() -> None:
    long, other = "A" * 5_000, "B" * 5_000
    body = await body_of(f'{{"a": [{{"b64": "{long}"}}, {{"b64": "{other}"}}], "b64": "short", "n": -0.5e3}}'.encode())
    left = body.take_out(NAMES).decode()
    assert len(left) < 300
    assert '"b64": "short", "n": -500.0' in left
    stand_ins = list(body.taken_out)
    assert [body.string(each) for each in stand_ins] == [long.encode(), other.encode()]
    assert all(each in left for each in stand_ins)
    again = await body_of(f'{{"x": {{"b64": "{long}"}}}}'.encode())
    assert stand_ins[0] in again.take_out(NAMES).decode(), "equal strings have equal ones"
    assert body.string("sha256:none") is None
    body.close()
    again.close()


async def test_what_is_left_must_be_small_and_json() -> None:
    for data, error in (
        (b'{"prompt": "%s"}' % (b"A" * 70_000), BodyTooLarge),
        (b'{"b64": "A', MalformedJson),
        # Millions of small values are not even looked at, or it would be known that these have no end.
        (b"[" + b"{}," * 70_000, BodyTooLarge),
    ):
        body = await body_of(data)
        with pytest.raises(error):
            body.take_out(NAMES)
        body.close()


async def test_letters_of_all_kinds_stay() -> None:
    body = await body_of('{"prompt": "ä \\ud83d\\ude00 \\ud800 😀", "b64": "x"}'.encode())
    assert body.take_out(NAMES) == '{"prompt": "ä 😀 \ud800 😀", "b64": "x"}'.encode("utf-8", "surrogatepass")
    body.close()


def test_the_table_is_by_path() -> None:
    files = BodyRule({"image/png": 100})
    rules = BodyRules({"/v1/inputs": files, "/v1/models/*/*/predictions": files})
    assert rules.of("/v1/inputs") is rules.of("/v1/models/a/b/predictions") is files
    for path in ("/v1/inputs/", "/v1/jobs", "/v1/models/a/predictions", "/v1/models/a/b/c/predictions"):
        assert rules.of(path).most == {"application/json": 65_536}
