"""What must happen although nobody asks: lost jobs go back to the queue, kept ones are forgotten in time.

Every gateway runs this; a short lock in Redis lets one of them act at a time. Refuses to end for any fault but its own
cancellation: while it is down, the jobs of a dead worker stay lost.
"""

from __future__ import annotations

import asyncio
import secrets
import time

import redis
import structlog

from app.contract.objects.names import job_prefix, token_prefix
from app.contract.redis import keys
from app.contract.redis.store import JobStore
from app.jobs.cell_mark import CellMark
from app.jobs.inputs import Inputs
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore

log = structlog.get_logger()

BATCH = 100
STRAYS_SECONDS = 3_600.0
"""Between two looks for what nothing names. Probes that were left lie in a folder for each hour."""


class Housekeeper:
    """One round every keys.REAP_SECONDS until `closing` is set."""

    def __init__(
        self, store: JobStore, pictures: PictureStore, mark: CellMark, inputs: Inputs, *, closing: asyncio.Event
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._mark = mark
        self._inputs = inputs
        self._closing = closing
        self._faults: set[str] = set()
        self._strays_due_at = 0.0

    async def run(self) -> None:
        """Work until closing. A fault is logged when it begins and when it is over."""
        while not self._closing.is_set():
            try:
                await self.round()
                # What this process saw accepted, and another server lacks. Every gateway looks for its own.
                await self._store.accepted.find_lost()
                self._over("redis")
            except redis.RedisError as error:
                self._fault("redis", error)
            except Exception:
                log.exception("housekeeping round failed")
            await self._rest()

    async def round(self) -> None:
        """Reap and sweep, if no other gateway does. Raises redis.RedisError."""
        # Shorter than the pause, so that the one gateway of a small service finds its own lock gone.
        if not await self._store.try_lock_reaper(secrets.token_hex(8), seconds=keys.REAP_SECONDS * 0.8):
            return
        await self._reap()
        try:
            await self._mark.require_known()
            await self._tidy()
            await self._sweep()
            if removed := await self._inputs.sweep(limit=BATCH):
                log.info("inputs removed", count=removed)
            # After what must go in time: their part of the store may be closed to a gateway that may delete the others.
            await self._tidy_snapshots()
            await self._sweep_strays()
            self._over("storage")
        except PictureStoreError as error:
            self._fault("storage", error)

    async def _reap(self) -> None:
        """All leases that have run out, in pieces between which Redis serves others: a site may lose a thousand workers
        at once, and their jobs wait for nothing else."""
        judged = BATCH
        while judged == BATCH and not self._closing.is_set():
            requeued, failed, repaired, judged = await self._store.reap(limit=BATCH)
            if requeued or failed or repaired:
                log.warning("jobs of lost workers", requeued=requeued, failed=failed, repaired=repaired)

    async def _tidy(self) -> None:
        """Pictures that attempts without a result have left in the store."""
        for attempt in await self._store.leftovers.orphans(limit=BATCH):
            if removed := await self._pictures.delete_prefix(token_prefix(*attempt.split("/"))):
                log.info("leftovers removed", job_id=attempt.split("/")[0], objects=removed)
            await self._store.leftovers.tidied(attempt)

    async def _tidy_snapshots(self) -> None:
        for attempt in await self._store.leftovers.snapshots(limit=BATCH):
            await self._pictures.delete_snapshots(*attempt.split("/"))
            await self._store.leftovers.snapshots_removed(attempt)

    async def _sweep(self) -> None:
        """Pictures first: a record without pictures can be explained, pictures without a record are never found."""
        forgotten = 0
        try:
            while expired := await self._store.expired(limit=BATCH):
                for job_id in expired:
                    await self._pictures.delete_prefix(job_prefix(job_id))
                    forgotten += await self._store.forget(job_id)
                if len(expired) < BATCH or self._closing.is_set():
                    break
        finally:
            if forgotten:
                log.info("expired jobs forgotten", count=forgotten)

    async def _sweep_strays(self) -> None:
        """What no record names: probes, and thumbnails of adapters that no card has any more."""
        if time.monotonic() < self._strays_due_at:
            return
        if removed := await self._pictures.sweep_probes():
            log.info("probes of killed processes removed", objects=removed)
        cards = [model.card for model in (await self._store.models.all()).values()]
        named = {adapter.thumbnail for card in cards for adapter in card.loras if adapter.thumbnail}
        if removed := await self._pictures.sweep_thumbnails(named):
            log.info("thumbnails of former adapters removed", objects=removed)
        self._strays_due_at = time.monotonic() + STRAYS_SECONDS

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(keys.REAP_SECONDS):
                await self._closing.wait()
        except TimeoutError:
            return

    def _fault(self, what: str, error: Exception) -> None:
        if what not in self._faults:
            self._faults.add(what)
            log.warning("housekeeping waits", what=what, error=type(error).__name__, reason=str(error)[:200])

    def _over(self, what: str) -> None:
        if what in self._faults:
            self._faults.discard(what)
            log.info("housekeeping goes on", what=what)
