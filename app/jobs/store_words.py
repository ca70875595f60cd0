"""Is another Redis alive that has this one's name, on the same picture store? Its copy would be.

A copy (a snapshot of a disk that was started, a backup that was restored beside the service) has all that this Redis
knew up to the copy: its name, and so its mark in the store. What comes later it does not know. So those who use a store
leave a new word there in each minute, and keep it in their Redis. Knows words and the clock. Refuses to know what
follows from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

from app.contract.redis.store_words import StoreWords
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore

log = structlog.get_logger()

FIRST_SECONDS = 150.0
"""Before who has just come leaves its first word: the original must not be the one that finds a stranger's."""

SILENT_SECONDS = 900.0
"""Without another word after which one that is not known is a dead one's: of the Redis that this one was restored from,
or the last before a failover."""

REASON = (
    "another Redis that has this one's name may use the picture store: a copy that was started, or what this one was"
    " restored from. Nothing is removed there until it has been silent for a quarter of an hour"
)


class WordsInStore:
    """One for each process. Methods raise redis.RedisError, and PictureStoreError where no word can be read."""

    def __init__(self, words: StoreWords, pictures: PictureStore, *, clock: Callable[[], float]) -> None:
        self._words = words
        self._pictures = pictures
        self._clock = clock
        # What this process has left it knows, also where Redis has lost it.
        self._own = deque[str](maxlen=100)
        self._seen: str | None = None
        self._seen_at: float | None = None
        self._may_speak = False
        self._strangers = 0

    async def look(self) -> str:
        """Why nothing may be removed from the store; empty if nobody else is heard there."""
        word = await self._pictures.read_word()
        is_known = word is None or word in self._own or await self._words.knows(word)
        now = self._clock()
        if word != self._seen or self._seen_at is None:
            is_first = self._seen_at is None
            self._seen, self._seen_at = word, now
            # One of ours that speaks has waited before it did.
            self._may_speak = self._may_speak or (is_known and not is_first)
            self._strangers = 0 if is_known else self._strangers + 1
            if self._strangers == 2:  # the first may be a dead one's
                log.error("the picture store is used by two", reason=REASON)
        silent = now - self._seen_at
        if not is_known and silent < SILENT_SECONDS:
            return REASON
        if self._may_speak or silent >= FIRST_SECONDS:
            await self._speak()
        return ""

    async def _speak(self) -> None:
        self._may_speak, self._strangers = True, 0
        if not (word := await self._words.draw()):
            return
        self._own.append(word)
        try:
            await self._pictures.leave_word(word)
        except PictureStoreError as error:
            # Where it is full, that is until something is removed.
            log.debug("no word could be left in the picture store", reason=str(error))
