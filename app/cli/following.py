"""Follows one job until it is over: by its event stream, and by asking where a stream does not get through.

Knows server-sent events (WHATWG HTML, 9.2) and when to stop hoping. Refuses to know who looks at the changes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx2

from app.cli.answers import PROGRESS, STARTED, fits
from app.cli.client import CommandError, Job, Refused, Service, bounded, is_terminal, understood
from app.cli.exits import UNREACHABLE

LARGEST_EVENT = 1024 * 1024
LARGEST_STREAM = 256 * 1024 * 1024
"""Bytes. A preview of up to 64 KiB after each of a thousand steps stays below. After a stream's end we ask."""

Handle = Callable[[Job], None]

POLL_SECONDS = 10
AWAY_SECONDS = 30.0
"""How long a service that was there may be away before we give up on it."""

PAUSE_SECONDS = 0.5
FIRST_EVENT_SECONDS = 5.0
"""A stream opens with the present state. One that stays silent is held back by a proxy: then we ask instead."""

SILENCE_SECONDS = 40.0
"""The service says something every 15 s, if only that it is there."""


async def follow(service: Service, job: Job, *, handle: Handle = lambda job: None) -> Job:
    """The job once it is over. `tell` hears every change on the way, and nothing of the end.

    Outlives a restart of the service. Raises CommandError when it is away for AWAY_SECONDS, or the job is gone.
    """
    follower = _Follower(service, job, handle)
    while not is_terminal(follower.job):
        if follower.streams:
            await follower.listen()
        if not is_terminal(follower.job):
            await follower.ask()
    return follower.job


class _Follower:
    """What is known of one job."""

    def __init__(self, service: Service, job: Job, handle: Handle) -> None:
        self.job = job
        self.streams = True
        self._service = service
        self._handle = handle
        self._etag = ""

    async def listen(self) -> None:
        """Take in events until the stream ends. A stream that tells nothing is not tried again."""
        heard = False
        with suppress(TimeoutError, ValueError, RecursionError, httpx2.RequestError, httpx2.StreamError):
            async with asyncio.timeout(FIRST_EVENT_SECONDS) as silence:
                async for name, data in _events(self._service, self.job["id"]):
                    heard = True
                    silence.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
                    self._take(await self._after(name, data))
        self.streams = heard

    async def ask(self) -> None:
        """The job after its next change, or after a while."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + AWAY_SECONDS
        while True:
            try:
                answer = await self._service.answer(
                    "GET", self._path, params={"wait": POLL_SECONDS}, headers={"If-None-Match": self._etag}
                )
                if answer.status_code == 304:
                    return
                self._etag = answer.headers.get("etag", "")
                self._take(self._service.job_of(understood(answer)))
                return
            except CommandError as error:
                if isinstance(error, Refused) and error.status < 500 and not error.has_no_room:
                    raise
                if loop.time() > ends:
                    raise CommandError(f"{error}; the job goes on as {self.job['id']}", UNREACHABLE) from None
            await asyncio.sleep(PAUSE_SECONDS)

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.job['id']}"

    async def _after(self, name: str, data: dict[str, Any]) -> Job:
        """The job after an event."""
        if data.get("object") == "job":
            return self._service.job_of(data)
        if name == "job.started" and fits(data, STARTED):
            return self.job | {"status": "running", "queue": None, "attempts": data["attempts"]}
        if name == "job.progress" and fits(data, PROGRESS):
            steps = {"step": data["step"], "steps": data["steps"], "stage": data.get("stage")}
            return self.job | {"status": "running", "queue": None, "progress": self.job["progress"] | steps}
        if name == "job.restarted":
            return await self._service.job(self.job["id"])
        return self.job

    def _take(self, job: Job) -> None:
        changed, self.job = job != self.job, job
        if changed and not is_terminal(job):
            self._handle(job)


async def _events(service: Service, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events (name, data) until the stream ends, nameless for a heartbeat; none where no stream is given."""
    headers = {"Accept": "text/event-stream"}
    timeout = httpx2.Timeout(SILENCE_SECONDS)
    async with service.opened("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as answer:
        kind = answer.headers.get("content-type", "")
        if answer.status_code != 200 or not kind.startswith("text/event-stream"):
            return
        name = ""
        async for line in _lines(answer):
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                # The service writes each event's data in one line.
                if not isinstance(data := json.loads(value), dict):
                    raise ValueError("an event's data is no object")
                yield name, data
            elif line.startswith(":"):
                yield "", {}


async def _lines(answer: httpx2.Response) -> AsyncIterator[str]:
    rest = b""
    async for chunk in bounded(answer, LARGEST_STREAM):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
        if len(rest) > LARGEST_EVENT:
            raise ValueError("an event without an end")
