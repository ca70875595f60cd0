"""Keeps the leases of the jobs in flight: one thread, one client with a short timeout, and nothing else to do.

Knows when a lease was last known to be ours. Refuses to know RQ, the engine and anything that could hold a beat up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import redis
import structlog

from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Claim, Ownership
from worker.attempts import Attempts, Stop
from worker.draining import Draining

log = structlog.get_logger()

BEAT_SECONDS = keys.BEAT_SECONDS

AGAIN_SECONDS = 1.0
"""After a beat that failed: with its timeout, three more fit into the lease that the last good one gave."""


@dataclass(frozen=True, slots=True)
class _Announced:
    """What is said of a model: see Ownership.announce."""

    card: ModelCard
    ready_in: float | None = None
    is_taken_up: bool = False


class Leases:
    """`ownership` is of a client of its own, which gives up in a tenth of a lease. `stop` ends an attempt early;
    `draining` hears whether an operator wants the worker to leave; `note` is what it says of itself beside its cards.
    """

    def __init__(
        self,
        ownership: Ownership,
        attempts: Attempts,
        *,
        cards: Sequence[ModelCard],
        worker: str,
        stop: Callable[[Claim, Stop], None],
        draining: Draining | None = None,
        note: Callable[[], WorkerNote | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ownership = ownership
        self._attempts = attempts
        self._announced = {card.name: _Announced(card) for card in cards}
        self._announcing = threading.Lock()
        self._worker = worker
        self._stop = stop
        self._draining = draining or Draining()
        self._has_left = False
        self._note = note
        self._clock = clock
        self._good_at = clock()

    @property
    def are_sure(self) -> bool:
        """Was Redis reached for them lately? Half a lease later at most: by then more jobs would only be lost with the
        others. A process that was asleep for longer learns first what it still owns.
        """
        return self._clock() - self._good_at < keys.LEASE_MS / 2000

    @property
    def announced(self) -> list[str]:
        """The models that this worker serves."""
        return [*self._announced]

    def announce_from_now_on(self, card: ModelCard) -> None:
        """In the place of the card of the same model."""
        with self._announcing:
            if card.name in self._announced:
                self._announced[card.name] = replace(self._announced[card.name], card=card)

    def estimate_from_now_on(self, model: str, ready_in: float) -> None:
        """Of a model that is announced and not in memory: after so many seconds it could be."""
        with self._announcing:
            if model in self._announced:
                self._announced[model] = replace(self._announced[model], ready_in=ready_in, is_taken_up=False)

    def announce(self, card: ModelCard, *, ready_in: float | None = None, is_taken_up: bool = False) -> None:
        """At once, and with each beat from now on; as Ownership.announce has it. Raises RedisError: then the next beat
        is the first that says so. Nothing, once the worker has left."""
        with self._announcing:
            if self._has_left:
                return
            self._announced[card.name] = each = _Announced(card, ready_in, is_taken_up)
            self._say(each)

    def withdraw(self, model: str) -> None:
        """This worker serves it no longer. Raises RedisError: then it is believed until a few beats are missing."""
        with self._announcing:
            if self._announced.pop(model, None) is not None:
                self._ownership.leave(model, self._worker)

    def leave(self) -> None:
        """This worker serves nothing any more, whatever is announced later: a model may be loaded until it ends. Raises
        RedisError: then it is believed until a few beats are missing."""
        with self._announcing:
            models, self._has_left = self.announced, True
            self._announced.clear()
            for model in models:
                self._ownership.leave(model, self._worker)

    def leave_drained(self) -> bool:
        """The same, if it is still to leave with its last job. False if that was taken back. Raises RedisError: ask
        again."""
        with self._announcing:
            self._has_left = self._ownership.leave_drained(self.announced, self._worker)
            if self._has_left:
                self._announced.clear()
            return self._has_left

    def beat(self) -> None:
        """Extend them all, hear which are lost or called off, and say that this worker lives. Raises RedisError."""
        began, claims, commands = self._clock(), self._attempts.claims(), self._draining.commands
        learned = self._ownership.beat(claims)
        for claim, each in zip(claims, learned, strict=True):
            if each is not Beat.KEPT:
                self._stop(claim, Stop.LOST if each is Beat.LOST else Stop.CANCELED)
        note = self._self_report()
        with self._announcing:
            told = [self._say(each, note) for each in self._announced.values()]
        if told:
            self._draining.beat(any(told), commands=commands)
        # From before it was sent: the lease began when Redis heard it, which was later.
        self._good_at = began

    def _say(self, each: _Announced, note: WorkerNote | None = None) -> bool:
        """True if the worker shall leave."""
        return self._ownership.announce(
            each.card, self._worker, ready_in=each.ready_in, is_taken_up=each.is_taken_up, note=note
        )

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
