"""Keeps the leases of the jobs in flight: one thread, one client with a short timeout, and nothing else to do.

Knows when a lease was last known to be ours. Refuses to know RQ, the engine and anything that could hold a beat up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import redis
import structlog

from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Claim, Ownership
from worker.attempts import Attempts, Stop

log = structlog.get_logger()

BEAT_SECONDS = keys.BEAT_SECONDS

AGAIN_SECONDS = 1.0
"""After a beat that failed: with its timeout, three more fit into the lease that the last good one gave."""


class Leases:
    """`ownership` is of a client of its own, which gives up in a tenth of a lease. `stop` ends an attempt early;
    `drain` is called while an operator wants the worker to leave; `note` is what it says of itself beside its cards.
    """

    def __init__(
        self,
        ownership: Ownership,
        attempts: Attempts,
        *,
        cards: Sequence[ModelCard],
        worker: str,
        stop: Callable[[Claim, Stop], None],
        drain: Callable[[], None] = lambda: None,
        note: Callable[[], WorkerNote | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ownership = ownership
        self._attempts = attempts
        self._cards = list(cards)
        self._worker = worker
        self._stop = stop
        self._drain = drain
        self._note = note
        self._clock = clock
        self._good_at = clock()

    @property
    def are_sure(self) -> bool:
        """Was Redis reached for them lately? Half a lease later at most: by then more jobs would only be lost with the
        others. A process that was asleep for longer learns first what it still owns.
        """
        return self._clock() - self._good_at < keys.LEASE_MS / 2000

    def announce_from_now_on(self, card: ModelCard) -> None:
        """In the place of the card of the same model."""
        self._cards = [card if each.name == card.name else each for each in self._cards]

    def beat(self) -> None:
        """Extend them all, hear which are lost or called off, and say that this worker lives. Raises RedisError."""
        began, claims = self._clock(), self._attempts.claims()
        learned = self._ownership.beat(claims)
        for claim, each in zip(claims, learned, strict=True):
            if each is not Beat.KEPT:
                self._stop(claim, Stop.LOST if each is Beat.LOST else Stop.CANCELED)
        note = self._self_report()
        told = [self._ownership.announce(card, self._worker, note=note) for card in self._cards]
        if any(told):
            self._drain()
        # From before it was sent: the lease began when Redis heard it, which was later.
        self._good_at = began

    def _self_report(self) -> WorkerNote | None:
        """Nothing, if it cannot be made: no lease is lost for it."""
        try:
            return self._note()
        except Exception:
            log.exception("the worker could not say how it is")
            return None

    def keep(self, over: threading.Event) -> None:
        """Beat until `over`. Ends for nothing else: without it every job would be lost."""
        pause = BEAT_SECONDS
        while not over.wait(pause):
            pause = BEAT_SECONDS if self._has_beaten() else min(AGAIN_SECONDS, BEAT_SECONDS)

    def _has_beaten(self) -> bool:
        try:
            self.beat()
        except redis.RedisError as error:
            log.warning("heartbeat failed", reason=str(error))
        except Exception:
            log.exception("heartbeat broke")
        else:
            return True
        return False
