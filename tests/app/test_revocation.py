"""A key's end is heard by whoever listens, without a task of theirs; and those who have left hear nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from app.edge.auth import Caller
from app.edge.guard import _until_revoked
from app.edge.revocation import Revocation

pytestmark = pytest.mark.anyio

GONE: Message = {"type": "http.disconnect"}


def receiving(revoked: Revocation, receive: Any) -> Any:
    return _until_revoked({"state": {"caller": Caller("t", revoked=revoked)}}, receive)


async def for_ever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_revocation_is_a_departure_also_when_it_came_before() -> None:
    revoked = Revocation()
    waiting = asyncio.ensure_future(receiving(revoked, for_ever)())
    await asyncio.sleep(0)
    assert not waiting.done()
    revoked.set()
    assert await waiting == GONE
    assert await receiving(revoked, for_ever)() == GONE
    assert not revoked._listeners


async def test_a_message_comes_through_and_nobody_listens_any_more() -> None:
    revoked = Revocation()

    async def body() -> Message:
        return {"type": "http.request", "body": b"x"}

    assert (await receiving(revoked, body)())["body"] == b"x"
    assert not revoked._listeners


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    """One task besides the one that waits: there are thousands of streams."""
    revoked, before = Revocation(), len(asyncio.all_tasks())
    waiting = asyncio.ensure_future(receiving(revoked, for_ever)())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before + 2
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    assert not revoked._listeners
