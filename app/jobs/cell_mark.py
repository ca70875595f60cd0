"""Whose the picture store is: an object in it names the Redis that it belongs to, and a second cell leaves it alone.

Two cells on one prefix would remove each other's pictures: the same picture of the same tenant is one object, and each
cell deletes what its own records need no more. Knows the mark, and which Redis this one is. Refuses to take a mark off:
whether the other cell is gone for good only its operator knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import redis
import structlog
from pydantic import BaseModel, ValidationError

from app.contract.objects.names import CELL_MARK
from app.contract.redis.store import JobStore
from app.jobs.schemas import timestamp
from app.jobs.store_words import WordsInStore
from app.pictures.errors import PictureStoreError, StoreDenied, StoreTaken, StoreUnavailable
from app.pictures.store import PictureStore

log = structlog.get_logger()

FRESH_SECONDS = 60.0
"""A mark is looked at again after this: somebody may have removed it, or written over it. Another's no sooner than our
own: of a mark that is removed by mistake a waiting cell is not to hear before its owner."""

AGAIN_SECONDS = 4.0
"""The same of one that could not be looked at."""

REMEDY = (
    "two would remove each other's pictures. Give this one another DARKROOM_STORAGE_URL; if the other Redis is gone for"
    f" good, remove {CELL_MARK} there"
)


class Mark(BaseModel):
    """What the object says. `epoch` is the Redis' own name; the others are for people."""

    epoch: str
    cell: str | None = None
    marked_at: str = ""

    @property
    def whose(self) -> str:
        return (f"of cell {self.cell}, " if self.cell else "") + f"since {self.marked_at}"


class CellMark:
    """One for each process. `taken` is why the store may not be used, as of the last look; empty while it may."""

    def __init__(
        self,
        jobs: JobStore,
        pictures: PictureStore,
        cell: str | None,
        *,
        redis_forgets: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`redis_forgets`: it may have another name after its next start, so it has none to mark a store with."""
        self._jobs = jobs
        self._pictures = pictures
        self._cell = cell
        self._redis_forgets = redis_forgets
        self._clock, self._now = clock, now
        self._own: bytes | None = None
        self._due_at = float("-inf")
        self._has_complained = False
        self._looking = asyncio.Lock()
        self._is_known = redis_forgets
        self._words = WordsInStore(jobs.store_words, pictures, clock=clock)
        self._not_alone = ""
        self.has_looked = asyncio.Event()
        """Whether it is known by now, or could not be known, whose the store is."""
        self.taken = ""

    def require(self) -> None:
        """Raises StoreTaken if the store was another's when this was last looked at."""
        if self.taken:
            raise StoreTaken(self.taken)

    async def require_known(self) -> None:
        """Before something is removed: as `require`, and StoreUnavailable while it could not be seen whose the store
        is. Raises redis.RedisError."""
        await self.look()
        self.require()
        if not self._is_known:
            raise StoreUnavailable("it could not be seen yet whose the picture store is")
        if self._not_alone:
            raise StoreUnavailable(self._not_alone)

    async def keep_looking(self) -> None:
        """For ever. In a task of its own: a store that hangs holds up nothing else."""
        while True:
            try:
                await self.look()
            except redis.RedisError as error:
                log.debug("it is not known whose the picture store is", reason=str(error))
            except Exception:
                log.exception("the look at whose the picture store is broke")
            self.has_looked.set()
            await asyncio.sleep(AGAIN_SECONDS)

    async def look(self) -> str:
        """Look again if that is due, and mark a store that is nobody's. Returns `taken`. Raises redis.RedisError.

        A store that cannot be looked at, or takes no such object, is no other's for that: whoever uses it will hear.
        """
        async with self._looking:
            if not self._redis_forgets and self._clock() >= self._due_at:
                taken, pause = await self._seen()
                if taken and taken != self.taken:
                    log.error("the picture store is another's: no job is taken, nothing is removed there", reason=taken)
                self.taken, self._due_at = taken, self._clock() + pause
            return self.taken

    async def _seen(self) -> tuple[str, float]:
        """`taken` as it is now, and seconds until the next look."""
        try:
            taken = await self._judged()
        except PictureStoreError as error:
            if not self._has_complained:
                log.warning("the picture store could not be marked as this service's", reason=str(error))
            self._has_complained = True
            if not isinstance(error, StoreDenied):
                return self.taken, AGAIN_SECONDS
            # Limited rights are lasting: such a store is used as it was before there were marks.
            taken = self.taken
        self._is_known = True
        if not taken:
            await self._listen()
        return taken, FRESH_SECONDS

    async def _listen(self) -> None:
        """Whether another Redis of this name is heard in the store. One that takes no word is used without."""
        try:
            self._not_alone = await self._words.look()
        except PictureStoreError as error:
            log.debug("no word could be left in the picture store", reason=str(error))

    async def _judged(self) -> str:
        found = await self._pictures.read_mark()
        if found is None:
            # Nobody's: also where no mark can be made, because there is no room until something is removed.
            self._is_known = True
            self._own = await self._marked()
            # Another one may have come first, or a store that knows no condition may have taken both.
            found = await self._pictures.read_mark()
        # What was ours stays so: that a Redis has lost everything while we run is for others to tell.
        if found is None or found == self._own:
            return ""
        try:
            mark = Mark.model_validate_json(found)
        except ValidationError:
            return f"the picture store has a {CELL_MARK} that is none; {REMEDY}"
        if mark.epoch != await self._jobs.epoch():
            return f"the picture store belongs to another Redis ({mark.whose}); {REMEDY}"
        self._own = found
        return ""

    async def _marked(self) -> bytes:
        """What would be in the store now, had nobody come first."""
        at = timestamp(int(self._now() * 1000))
        own = Mark(epoch=await self._jobs.epoch(), cell=self._cell, marked_at=at).model_dump_json().encode()
        await self._pictures.create_mark(own)
        return own
