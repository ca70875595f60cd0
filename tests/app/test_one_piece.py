"""What is written in one turn of the loop leaves together, in order, and before the end."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from app.one_piece import MOST_HELD, Gathering

pytestmark = pytest.mark.anyio


class Sent:
    """A transport that notes what reaches it."""

    def __init__(self) -> None:
        self.notes: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.notes.append(data)

    def close(self) -> None:
        self.notes.append("closed")

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
