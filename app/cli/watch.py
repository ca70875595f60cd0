"""`darkroom jobs watch`: jobs as they go on, one or all that are not over. Looks only: a Ctrl-C ends no job."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from app.cli.client import Job, Refused, Service, converse, is_terminal
from app.cli.exits import FAILED, OK
from app.cli.following import follow
from app.cli.generate import FOLLOWED
from app.cli.jobs import PAGE
from app.cli.plain import plain
from app.cli.screen import Bars, say, standing
from app.cli.which_job import asked, ids_of

NEW_SECONDS = 2.0
"""How often jobs that were sent in meanwhile are looked for."""


def watch_jobs(job_ids: Sequence[str], *, as_json: bool, url: str, api_key: str | None) -> int:
    """Follow the jobs, or all that are not over until none is left. Returns the exit code."""

    async def work(service: Service) -> int:
        with Bars() as bars:
            watcher = _Watcher(service, bars, as_json=as_json)
            if job_ids:
                ids = await ids_of(service, job_ids)
                ended = await watcher.follow_all([await asked(service, each, service.job(each)) for each in ids])
                return OK if all(job["status"] == "succeeded" for job in ended) else FAILED
            await watcher.follow_unfinished()
            return OK

    return converse("jobs watch", url, api_key, work)


class _Watcher:
    """What was said of which job."""

    def __init__(self, service: Service, bars: Bars, *, as_json: bool) -> None:
        self._service = service
        self._bars = bars
        self._as_json = as_json
        self._said: dict[str, str] = {}
        self._turns = asyncio.Semaphore(FOLLOWED)

    async def follow_all(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs once they are over."""
        return list(await asyncio.gather(*(self._follow(job) for job in jobs)))

    async def follow_unfinished(self) -> None:
        """Until the service has no job of ours that is not over."""
        following: dict[str, asyncio.Task[Job]] = {}
        while True:
            for job in await self._unfinished():
                if job["id"] not in following:
                    following[job["id"]] = asyncio.create_task(self._follow(job))
            going_on = [task for task in following.values() if not task.done()]
            if not going_on:
                break
            await asyncio.wait(going_on, timeout=NEW_SECONDS)
        await asyncio.gather(*following.values())
        if not following:
            with self._bars.aside():
                print("no job is queued or running", file=sys.stderr)

    async def _unfinished(self) -> list[Job]:
        # In this order: a job that is begun between the two is on both pages, and not on neither.
        queued, running = [await self._service.jobs(status=status, limit=PAGE) for status in ("queued", "running")]
        # Oldest first: those are drawn first.
        return [job for page in (running, queued) for job in reversed(page["data"])]

    async def _follow(self, job: Job) -> Job:
        self._handle(job)
        try:
            async with self._turns:
                ended = job if is_terminal(job) else await follow(self._service, job, handle=self._handle)
        except Refused as error:
            # A job that was deleted while it was watched has ended too.
            if error.status != 404:
                raise
            ended = job | {"status": "deleted"}
        self._handle(ended)
        return ended

    def _handle(self, job: Job) -> None:
        """Move the bar; print a line when the state is another one, and with --json at every change."""
        self._bars.show(job)
        if self._as_json:
            with self._bars.aside():
                say(json.dumps(job))
            return
        if self._said.get(job["id"]) != job["status"] and (is_terminal(job) or not self._bars.are_drawn):
            with self._bars.aside():
                say(f"{job['id']}  {_state(job)}  {plain(job['input']['prompt'], 60)}")
        self._said[job["id"]] = job["status"]


def _state(job: Job) -> str:
    return f"failed ({plain(job['error']['detail'])})" if job.get("error") else standing(job)
