"""Pictures that come in: judged and cleaned, stored under what they hold, kept for their time, removed.

Knows the order in which object and record come and go, so that neither is ever without the other for long. Refuses to
know HTTP beyond the errors it raises, and what a job wants of a picture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import redis
import structlog
from anyio import CapacityLimiter, to_thread

from app.contract.messages.cells import without_cell
from app.contract.messages.job import new_token
from app.contract.objects.names import input_key
from app.contract.redis.inputs import InputsFull, InputStore, Orphan, StoredInput
from app.contract.redis.store import JobStore
from app.edge.errors import InputInUse, InputNotFound, PicturesUnavailable, TooManyInputs, Unavailable
from app.jobs.cell_mark import CellMark
from app.jobs.room import Room
from app.jobs.usage import InputsHeld
from app.pictures.clean_picture import CleanPicture
from app.pictures.cleaners import Clean, CleanerDied, Cleaners, cleaned
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore

log = structlog.get_logger()

CLEANED_AT_ONCE = 2
"""By one gateway process: seconds of a processor and up to 250 MB each. The others wait their turn, as files."""

STORED_AT_ONCE = 4
"""Of the threads that pictures are read in: those who look at pictures are not to wait for those who send some."""

STORE_SECONDS = 60.0
"""Below ORPHAN_MS: who takes longer must not come to own an object that may be taken for nobody's, nor begin to remove
one that may be somebody's again."""

UPLOAD_TRIES = 3
"""Of one upload, when others delete the same picture all the while."""

REMOVAL_SECONDS = 10.0
"""So long an upload waits until the same picture, which is just being deleted, is gone."""


class Inputs:
    """Raises redis.RedisError and PictureStoreError while one of the two is away."""

    def __init__(
        self,
        store: InputStore,
        pictures: PictureStore,
        jobs: JobStore,
        *,
        room: Room,
        mark: CellMark,
        most_bytes: int,
        most_bytes_held: int,
        retention_ms: int,
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._jobs = jobs
        self._room = room
        self._mark = mark
        self._retention_ms = retention_ms
        self._cleaning = CapacityLimiter(CLEANED_AT_ONCE)
        self._cleaners = Cleaners()
        self._storing = CapacityLimiter(STORED_AT_ONCE)
        self.most_bytes = most_bytes
        """Of a file as it comes."""
        self.most_bytes_held = most_bytes_held
        """Of all pictures of a tenant; 0 for no bound."""

    async def add(self, read: Callable[[], bytes], tenant: str, *, clean: Clean = cleaned) -> tuple[StoredInput, bool]:
        """The picture that `read` brings, and whether it is new: the same pixels in the same kind of file are not.

        `read` is called in a thread, when it is this picture's turn, and `clean`, which can be pickled, in another
        process. Raises UnfitPicture, what `read` does, and the problems of a service that has no room.
        """
        await self._room.look()
        try:
            picture = await to_thread.run_sync(lambda: self._cleaners.run(clean, read()), limiter=self._cleaning)
        except CleanerDied as error:
            log.warning("a picture was not decoded", reason=str(error))
            detail = "The process that decoded the picture has ended. Send it again; if that ends too, save it anew."
            raise Unavailable(detail) from error
        stored, is_new = await self._keep(picture, tenant)
        log.info("input kept", input_id=stored.id, bytes=stored.bytes, is_new=is_new)
        return stored, is_new

    @property
    def decoders(self) -> list[int]:
        """Pids of the processes that wait for a picture to decode."""
        return self._cleaners.pids

    def close(self) -> None:
        """No more pictures come in."""
        self._cleaners.close()

    async def get(self, input_id: str, tenant: str) -> StoredInput:
        """The tenant's picture of this id, with a cell's name or without. Raises InputNotFound."""
        found = await self._store.get(without_cell(input_id), tenant)
        if found is None:
            # Of a Redis that has lost everything nothing is denied.
            await self._jobs.require_epoch()
            raise InputNotFound
        return found

    async def page(self, tenant: str, *, limit: int, before: tuple[int, str] | None) -> list[StoredInput]:
        """The tenant's, newest first, at most `limit`; `before` is (created_ms, id) of the last one seen."""
        return await self._store.page(tenant, limit=limit, before=before)

    async def held(self, tenant: str) -> InputsHeld:
        """What all of the tenant's take, and may take."""
        return InputsHeld(bytes=await self._store.bytes_of(tenant), most_bytes=self.most_bytes_held or None)

    async def remove(self, picture: StoredInput) -> None:
        """Forget it. Raises InputInUse while a job that is not over needs it."""
        outcome, orphan = await self._store.drop(picture)
        if outcome == "in-use":
            raise InputInUse("A job that is not over needs this picture: wait for its end, or cancel it.")
        log.info("input deleted", input_id=picture.id)
        if orphan is None:
            return
        try:
            await self._remove(orphan)
        except (PictureStoreError, redis.RedisError) as error:
            # Its record is gone; the file goes with a round of the housekeeper.
            log.warning("an input's file stays for now", reason=str(error))

    async def sweep(self, *, limit: int) -> int:
        """Removes what is kept no longer, and files that never got a record; returns how many."""
        for input_id in await self._store.expired(limit=limit):
            await self._store.drop_expired(input_id)
        return sum([await self._remove(orphan) for orphan in await self._store.orphans(limit=limit)])

    async def _keep(self, picture: CleanPicture, tenant: str) -> tuple[StoredInput, bool]:
        orphan = Orphan.of(tenant, picture.sha256)
        facts: dict[str, str | int] = {
            "bytes": len(picture.data),
            "width": picture.width,
            "height": picture.height,
            "content_type": picture.content_type,
        }
        try:
            return await self._stored(picture, orphan, facts)
        except InputsFull as full:
            raise self._refusal(full, len(picture.data)) from full

    async def _stored(
        self, picture: CleanPicture, orphan: Orphan, facts: Mapping[str, str | int]
    ) -> tuple[StoredInput, bool]:
        """Raises InputsFull."""
        ends, tries, most = 0.0, 0, self.most_bytes_held
        while tries < UPLOAD_TRIES:
            async with self._storing:
                token = new_token()
                if await self._store.begin(orphan, token, size=len(picture.data), most=most):
                    tries += 1
                    await self._put(picture, orphan)
                    added = await self._store.add(orphan, token, facts, retention_ms=self._retention_ms, most=most)
                    if added is not None:
                        return added
                    continue
            # Not among those who store: others would wait for its removal too.
            ends = ends or time.monotonic() + REMOVAL_SECONDS
            if time.monotonic() > ends:
                raise PicturesUnavailable("The same picture is being deleted: send it again in a moment.")
            await asyncio.sleep(0.1)
        raise PicturesUnavailable("The same picture is being deleted again and again: send it later.")

    async def _put(self, picture: CleanPicture, orphan: Orphan) -> None:
        began = time.monotonic()
        # Also if it is known: whatever has happened to the file, afterwards it is there.
        await self._pictures.put_input(input_key(orphan.tenant, orphan.sha256), picture.data, picture.content_type)
        if time.monotonic() - began > STORE_SECONDS:
            raise PicturesUnavailable("The picture store took too long: send the picture again.")

    def _refusal(self, full: InputsFull, size: int) -> TooManyInputs:
        most = self.most_bytes_held
        if size > most:
            return TooManyInputs(f"This picture takes {size} bytes, and all that you send in may take {most} together.")
        return TooManyInputs(
            f"The pictures that you sent in take {full.held} bytes, this one {size}, and they may take {most} "
            "together: delete some, which GET /v1/inputs lists, or wait until their time of keeping is over."
        )

    async def _remove(self, orphan: Orphan) -> bool:
        # The same picture of the same tenant is one object for two cells on one prefix.
        await self._mark.require_known()
        token, began = new_token(), time.monotonic()
        if not await self._store.may_remove(orphan, token):
            return False
        if time.monotonic() - began > STORE_SECONDS:
            return False
        try:
            await self._pictures.delete_input(input_key(orphan.tenant, orphan.sha256))
        except PictureStoreError:
            await self._store.not_removed(orphan, token)
            raise
        await self._store.removed(orphan, token)
        return True
