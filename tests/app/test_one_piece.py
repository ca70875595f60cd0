"""What is written in one turn of the loop leaves together, in order, and before the end; a still reader is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from app.edge.transport import MOST_HELD, Gathering

pytestmark = pytest.mark.anyio


class Sent:
    """A transport that notes what reaches it."""

    def __init__(self) -> None:
        self.notes: list[bytes | str] = []
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.notes.append(data)

    def close(self) -> None:
        self.notes.append("closed")

    def abort(self) -> None:
        self.notes.append("aborted")

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return "closed" in self.notes


def gathering() -> tuple[Gathering, Sent]:
    sent = Sent()
    return Gathering(cast(asyncio.Transport, sent), asyncio.get_running_loop()), sent


async def test_head_and_body_are_one_piece_and_the_next_turn_is_another() -> None:
    transport, sent = gathering()
    transport.write(b"head")
    transport.write(b"body")
    assert sent.notes == []
    await asyncio.sleep(0)
    transport.write(b"more")
    await asyncio.sleep(0)
    assert sent.notes == [b"headbody", b"more"]


async def test_closing_waits_for_what_was_written() -> None:
    transport, sent = gathering()
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert sent.notes == [b"last", "closed"]
    assert transport.is_closing()


async def test_much_is_not_held_back() -> None:
    transport, sent = gathering()
    transport.write(b"head")
    transport.write(bytes(MOST_HELD))
    assert sent.notes == [b"head" + bytes(MOST_HELD)], "else nothing would slow the writer down"
    transport.write(b"tail")
    await asyncio.sleep(0)
    assert sent.notes[1:] == [b"tail"]


class Clock:
    """A loop whose hours the test tells."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        call()

    def call_later(self, seconds: float, call: Callable[[], None]) -> object:
        assert seconds == 30
        self.due.append(call)
        return call

    def strike(self) -> None:
        """Half a minute is over."""
        due, self.due = self.due, []
        for call in due:
            call()


def watched() -> tuple[Gathering, Sent, Clock]:
    sent, clock = Sent(), Clock()
    return Gathering(cast(asyncio.Transport, sent), cast(Any, clock)), sent, clock


def write(transport: Gathering, sent: Sent, size: int, *, waiting: int) -> None:
    sent.waiting = waiting
    transport.write(bytes(size))
    transport._send()


def test_a_reader_that_stands_still_is_left() -> None:
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=600)
    clock.strike()
    assert sent.notes[-1] == "aborted"
    assert clock.due == []


def test_a_reader_that_moves_is_waited_for_however_slow() -> None:
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=600)
    for waiting in (599, 598, 1):
        sent.waiting = waiting
        clock.strike()
        assert "aborted" not in sent.notes
    sent.waiting = 0
    clock.strike()
    assert clock.due == [], "nobody is watched who has everything"


def test_writing_more_is_not_moving() -> None:
    """A stream of events beats every 15 s: what waits grows, and nothing of it leaves."""
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=600)
    write(transport, sent, 50, waiting=650)
    assert len(clock.due) == 1
    clock.strike()
    assert sent.notes[-1] == "aborted"


def test_moving_while_more_is_written_is_moving() -> None:
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=600)
    write(transport, sent, 500, waiting=1_099)
    clock.strike()
    assert "aborted" not in sent.notes


def test_an_answer_that_leaves_at_once_is_not_watched() -> None:
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=0)
    assert clock.due == []


def test_a_closed_connection_is_watched_until_it_is_empty() -> None:
    transport, sent, clock = watched()
    write(transport, sent, 1_000, waiting=600)
    transport.close()
    clock.strike()
    assert sent.notes[-2:] == ["closed", "aborted"]
