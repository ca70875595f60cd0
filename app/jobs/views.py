"""A record becomes what its owner sees: with links to the pictures and a place in the queue.

Knows records, links and estimates. Refuses to know who asks: that was decided before.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

from app.contract.messages.events import Status
from app.contract.messages.job import Picture, Record
from app.contract.messages.served import ServedModel
from app.contract.redis.store import JobStore
from app.jobs.model_choice import absence
from app.jobs.model_registry import ModelRegistry, retry_after
from app.jobs.schemas import JobView, QueuePlace
from app.pictures.store import PictureStore

LONGEST_SHARED = 1_800
"""Seconds for which a link that has not been asked for before is made as if it had been."""


class Viewer:
    """Makes views. Raises redis.RedisError and storage.PictureStoreError."""

    def __init__(
        self,
        store: JobStore,
        pictures: PictureStore,
        registry: ModelRegistry,
        *,
        link_seconds: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._registry = registry
        self._link_seconds = link_seconds
        self.now = wall_clock
        """Seconds since 1970."""

    async def view(self, record: Record, *, base: str) -> JobView:
        """The job with links that work for `link_seconds` but a part of it, or until the pictures go."""
        keys, until = record.object_keys, record.expires_ms
        # At once: a picture with a trajectory has seven, and a bucket's are signed in another thread.
        urls = await asyncio.gather(*(self.url(key, base=base, until_ms=until) for key in keys))
        links = dict(zip(keys, urls, strict=True))
        if record.status is not Status.QUEUED:
            return JobView.of(record, base=base, links=links)
        model = (await self._registry.models()).get(record.model)
        queue = await self._place(record, model)
        said = [absence(record.model, model), self._lateness(record, queue)]
        return JobView.of(record, base=base, links=links, queue=queue, warnings=[each for each in said if each])

    async def picture_url(self, picture: Picture, *, base: str, until_ms: int | None = None) -> str:
        """A link that needs no API key, absolute. `until_ms` is when the picture will be deleted."""
        return await self.url(picture.key, base=base, until_ms=until_ms)

    async def url(self, key: str, *, base: str, until_ms: int | None = None) -> str:
        """The same for an object key: of a picture, or of its previews."""
        begins, seconds = self._link_age_start(), self._link_seconds
        left = until_ms // 1000 - int(self.now()) if until_ms else seconds + 1
        if 0 < left <= seconds:
            # It ends with its picture, and so is the same however often it is asked for.
            begins, seconds = int(self.now()), left
        url = await self._pictures.link(key, expires_in=seconds, now=begins)
        return base + url if url.startswith("/") else url

    def etag(self, view: JobView, record: Record, body: str) -> str:
        """Changes with everything a client can see, and before the links in an earlier answer have run out. `body` is
        the view as JSON."""
        seen = body
        if record.images:
            seen = f"{view.model_dump_json(exclude={'images'})}{record.images!r}{self._link_age_start()}"
        return f'W/"{hashlib.sha256(seen.encode()).hexdigest()[:24]}"'

    async def retry_after(self, view: JobView) -> int:
        """Seconds after which asking again makes sense."""
        if view.queue is not None:
            return retry_after(view.queue.eta_seconds)
        model = (await self._registry.models()).get(view.model)
        whole = model.eta_seconds(0) if model else None
        left = 1 - view.progress.step / max(1, view.progress.steps)
        return retry_after(whole and whole * left)

    async def _place(self, record: Record, model: ServedModel | None) -> QueuePlace | None:
        # A record that came with an outbox entry does not know its place.
        position = await self._store.position(record) if record.position is None else record.position
        if position is None:
            return None
        eta = model.eta_seconds(position) if model else None
        workers = model.workers if model else 0
        return QueuePlace(position=position, workers=workers, eta_seconds=None if eta is None else round(eta, 1))

    def _lateness(self, record: Record, queue: QueuePlace | None) -> str | None:
        """What is said of a job whose deadline will pass before it is over, as things stand."""
        if record.due_ms is None or queue is None or queue.eta_seconds is None:
            return None
        left = record.due_ms / 1000 - self.now()
        if queue.eta_seconds <= left:
            return None
        return f"At the present pace it will be over in about {queue.eta_seconds:g} s, after its deadline."

    def _link_age_start(self) -> int:
        # Links change twice in their life, not with every poll: pages and caches may keep one while it works.
        now, part = int(self.now()), min(self._link_seconds // 2, LONGEST_SHARED)
        return now - now % part
