"""How far jobs are and how they look by now: told now and then, in one round trip, and more often to who watches.

Best effort: only the newest is worth telling, and what cannot be told is dropped. Knows what is new of each attempt,
and until when somebody is believed to watch it. Refuses to know how a job ends.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

import redis
import structlog

from app.contract.redis.ownership import Claim, Ownership, StepsDone
from worker.attempts import Attempts
from worker.engine.events import Preview, Progress
from worker.images import encode_preview

log = structlog.get_logger()

WATCHED_SECONDS = 0.2
"""Who polls or watches sees five steps a second at most; more would only load Redis."""

UNWATCHED_SECONDS = 1.0
"""Whoever asks for the first time finds the record as old as this at most."""


News = TypeVar("News", Progress, Preview)


class LiveNews:
    """`put`, `forget` and `watch` are for any thread and never block; `tell` is for one."""

    def __init__(
        self, ownership: Ownership, attempts: Attempts, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ownership = ownership
        self._attempts = attempts
        self._clock = clock
        self._progress: dict[str, Progress] = {}
        self._previews: dict[tuple[str, int], Preview] = {}
        self._watched_until: dict[str, float] = {}
        self._told_all_at = float("-inf")

    def put(self, news: Progress | Preview) -> None:
        """In the place of what was new before."""
        if isinstance(news, Progress):
            self._progress[news.request_id] = news
        else:
            self._previews[news.request_id, news.index] = news

    def watch(self, claim: Claim) -> None:
        """Somebody looks, from now on. For how long, Redis says with the next answer."""
        self._watched_until[claim.token] = self._clock() + UNWATCHED_SECONDS

    def forget(self, token: str) -> None:
        """Its attempt is at its end, which says more."""
        self._progress.pop(token, None)

    def keep_telling(self, over: threading.Event) -> None:
        """`tell` five times a second until `over`."""
        while not over.wait(WATCHED_SECONDS):
            try:
                self.tell()
            except redis.RedisError:
                log.debug("progress dropped")
            except Exception:
                log.exception("progress could not be told")

    def tell(self) -> None:
        """What is new of the jobs that somebody watches; once in a while, of all. Raises redis.RedisError."""
        at, claims = self._clock(), {claim.token: claim for claim in self._attempts.claims()}
        tells_all = at - self._told_all_at >= UNWATCHED_SECONDS
        if tells_all:
            self._told_all_at = at
            self._drop_all_but(claims)
        due = {token: claim for token, claim in claims.items() if tells_all or self._is_watched(claim, at)}
        # Taken out before anything is told: what could not be told is old by the next time.
        progress, previews = _taken(self._progress, due), _taken(self._previews, due)
        if progress:
            self._tell_steps([StepsDone(due[each.request_id], each.step, each.steps, each.stage) for each in progress])
        for preview in previews:
            self._show(due[preview.request_id], preview)

    def _is_watched(self, claim: Claim, at: float) -> bool:
        return self._watched_until.setdefault(claim.token, at + claim.watched_ms / 1000) > at

    def _tell_steps(self, news: list[StepsDone]) -> None:
        for each, left_ms in zip(news, self._ownership.steps_done(news), strict=True):
            self._watched_until[each.claim.token] = self._clock() + left_ms / 1000

    def _show(self, claim: Claim, preview: Preview) -> None:
        try:
            jpeg = base64.b64encode(encode_preview(preview.picture)).decode()
            self._ownership.preview(claim, preview.index, preview.step, preview.steps, jpeg)
        except redis.RedisError:
            raise
        except Exception:
            log.exception("a preview could not be told", job_id=claim.id)

    def _drop_all_but(self, claims: Mapping[str, Claim]) -> None:
        """Of attempts that have ended something may have been new."""
        mappings: tuple[dict[Any, Any], ...] = (self._progress, self._previews)
        for news in mappings:
            for key in [key for key, each in list(news.items()) if each.request_id not in claims]:
                news.pop(key, None)
        for token in self._watched_until.keys() - claims.keys():
            self._watched_until.pop(token, None)


def _taken(news: dict[Any, News], due: Container[str]) -> list[News]:
    """Take out what is of these tokens. The engine's thread may put more in, or take one out, meanwhile."""
    keys = [key for key, each in list(news.items()) if each.request_id in due]
    return [each for each in (news.pop(key, None) for key in keys) if each is not None]
