"""Waiting on behalf of a client: until it happens, the client leaves, or the service is told to stop.

Knows connections and tasks. Refuses to know what is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
from starlette.requests import Request

T = TypeVar("T")

CANCEL_AGAIN_SECONDS = 0.05


class ClientGone(Exception):
    """The connection has ended. Nobody is left to answer."""


async def wait_for(request: Request, work: Coroutine[Any, Any, T], *, closing: asyncio.Event) -> T | None:
    """What `work` returns or raises; None if the service closes first. Raises ClientGone when nobody listens.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone, stopped = asyncio.ensure_future(_departure(request)), asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait((task, gone, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGone
        return None
    finally:
        await end(task, gone, stopped)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks and wait until they are done, whatever they end with."""
    # redis-py 8.1 swallows a cancellation that arrives while it connects, so one may not be enough. The shield is
    # against the server, which cancels a stream's own task again and again once its client has left.
    pending = set(tasks)
    with anyio.CancelScope(shield=True):
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
        await asyncio.gather(*tasks, return_exceptions=True)
