"""A worker with several folders: holds one model in memory, and takes up another when that one's jobs have waited for
longer than it takes. Others who could take it up leave it to this worker meanwhile.

What is in memory is put to rest first: nothing more of it is claimed, and what was claimed is drawn. Knows the order of
a swap. Refuses to know when one is worth it (next_model.py), and how a model is loaded and served (holding.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol

import redis
import structlog

from app.contract.messages.card import ModelCard
from app.contract.redis.model_demand import Demand, ModelDemand
from worker.engine.errors import DeviceLost
from worker.model_folders import KnownFolder, ModelFolders
from worker.models.errors import ModelError
from worker.next_model import Candidate, Held, next_model, ready_in

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""Between two looks at what waits: one call of Redis, however many folders there are."""

REST_SECONDS = 0.05
"""Between two looks whether the last job of a model at rest has ended."""


class Memory(Protocol):
    """What is in memory: one model, or none."""

    def open(self, folder: KnownFolder, /) -> ModelCard:
        """Load the folder, and claim its jobs from now on. Raises whatever a folder can make it raise."""

    def rest(self, model: str, /) -> None:
        """Claim nothing more of it."""

    def resume(self, model: str, /) -> None:
        """Claim again what rested."""

    def is_at_rest(self, model: str, /) -> bool:
        """None of its jobs is in flight."""

    def close(self, model: str, /) -> None:
        """Give its memory back. It is at rest."""


class Announcing(Protocol):
    """What this worker says of itself: worker/leases.py."""

    def announce(self, card: ModelCard, *, ready_in: float | None = None, is_taken_up: bool = False) -> None: ...
    def estimate_from_now_on(self, model: str, ready_in: float, /) -> None: ...
    def withdraw(self, model: str, /) -> None: ...


class Swapper:
    """`run` is for a thread of its own. `pause` waits for so many seconds, and answers whether the worker is to end."""

    def __init__(
        self,
        folders: ModelFolders,
        demand: ModelDemand,
        memory: Memory,
        announcing: Announcing,
        *,
        worker: str,
        hold_seconds: float,
        pause: Callable[[float], bool],
        may_swap: Callable[[], bool] = lambda: True,
        count: Callable[[str, float, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """While it may not swap, what is in memory stays. `count` hears of each load: the model, its seconds, and
        whether it was `loaded` or `failed`."""
        self._folders = folders
        self._demand = demand
        self._memory = memory
        self._announcing = announcing
        self._worker = worker
        self._hold_seconds = hold_seconds
        self._pause = pause
        self._may_swap = may_swap
        self._count = count or (lambda model, seconds, outcome: None)
        self._clock = clock
        self._held: ModelCard | None = None
        self._held_since = 0.0
        self._announced: set[str] = set()
        self._had = ""
        """The model that was in memory last."""

    def run(self) -> None:
        """Look again and again until the worker is to end. Raises DeviceLost."""
        said = ""
        while True:
            try:
                if self._may_swap():
                    self.look()
                said = ""
            except redis.RedisError as error:
                if said != str(error):
                    log.warning("redis is away; the model in memory stays", reason=str(error))
                said = str(error)
            if self._pause(LOOK_SECONDS):
                return

    def look(self) -> None:
        """Take up what is wanted more than what is in memory, if anything is. Raises redis.RedisError, DeviceLost."""
        folders = self._folders.look()
        demand = self._demand.look([*{*folders, *([self._held.name] if self._held else [])}])
        held = self._held_as_seen(demand)
        self._tell(folders, demand, held)
        wanted = next_model(self._candidates(folders, demand), held)
        if wanted is not None:
            self._take_up(folders[wanted.name], demand[wanted.name])
        elif held is None and (folder := self._any_of(folders)) is not None:
            self._take_up(folder, demand[folder.name])

    def _held_as_seen(self, demand: Mapping[str, Demand]) -> Held | None:
        if self._held is None:
            return None
        is_busy = demand[self._held.name].waiting > 0 or not self._memory.is_at_rest(self._held.name)
        return Held(is_busy=is_busy, since=self._clock() - self._held_since, hold=self._hold_seconds)

    def _tell(self, folders: Mapping[str, KnownFolder], demand: Mapping[str, Demand], held: Held | None) -> None:
        """What could be taken up, and how soon; and what is not there any more."""
        pace = demand[self._held.name].job_seconds if self._held else None
        running = pace or 0.0 if held and held.is_busy else 0.0
        served = {name: each for name, each in folders.items() if each.card and self._folders.may_be_tried(each)}
        for name, folder in served.items():
            if self._held is None or name != self._held.name:
                estimate = ready_in(_load(folder), held, running=running)
                if name in self._announced:
                    self._announcing.estimate_from_now_on(name, estimate)
                else:
                    self._announce(folder.card, ready_in=estimate)
        for name in self._announced - served.keys() - {self._held.name if self._held else ""}:
            self._withdraw(name)

    def _candidates(self, folders: Mapping[str, KnownFolder], demand: Mapping[str, Demand]) -> Iterator[Candidate]:
        """What this worker could take up, and no other is about to."""
        for name, folder in folders.items():
            wanted = demand[name]
            is_here = self._held is not None and self._held.name == name
            if is_here or wanted.taken_by not in (None, self._worker) or not self._folders.may_be_tried(folder):
                continue
            if folder.card is None:
                # Nobody can ask for it yet: as if a job had since it was found.
                yield Candidate(name=name, waiting=1, unserved=self._clock() - folder.found_at, load=0.0)
            else:
                drain = _drain(wanted, folder.card)
                load = _load(folder)
                yield Candidate(name=name, waiting=wanted.waiting, unserved=wanted.unserved, load=load, drain=drain)

    def _any_of(self, folders: Mapping[str, KnownFolder]) -> KnownFolder | None:
        """Nothing is wanted, and nothing is in memory: the one that was, or the first."""
        fit = {name: each for name, each in folders.items() if self._folders.may_be_tried(each)}
        return fit.get(self._had) or next(iter(fit.values()), None)

    def _take_up(self, folder: KnownFolder, seen: Demand) -> None:
        """Put to rest what is in memory, and load this. Raises redis.RedisError before anything has changed."""
        if folder.card is not None:
            if not self._demand.take_up(folder.name, self._worker, seen=seen.in_memory):
                return
            self._announce(folder.card, ready_in=_load(folder), is_taken_up=True)
        try:
            if self._is_put_to_rest(folder):
                self._swap(folder)
        finally:
            with suppress(redis.RedisError):
                # Else it expires: no beat renews it any more.
                self._demand.taken_up(folder.name, self._worker)

    def _is_put_to_rest(self, folder: KnownFolder) -> bool:
        """False if the process ends first, or if others have done meanwhile what it is for."""
        if self._held is None:
            return True
        model, began = self._held.name, self._clock()
        log.info("taking up another model", model=folder.name, instead_of=model)
        self._memory.rest(model)
        self._announce(self._held, ready_in=self._hold_seconds)
        while not self._memory.is_at_rest(model):
            if self._pause(REST_SECONDS):
                return False
            because = "" if self._may_swap() else "the worker is drained"
            if self._clock() - began > LOOK_SECONDS and not self._is_wanted(folder):
                because = f"nothing waits for {folder.name} any more"
            if because:
                log.info("the model stays", model=model, because=because)
                self._memory.resume(model)
                self._announce(self._held)
                return False
        return True

    def _is_wanted(self, folder: KnownFolder) -> bool:
        if folder.card is None:
            return True
        try:
            return self._demand.look([folder.name])[folder.name].waiting > 0
        except redis.RedisError:
            return True

    def _swap(self, folder: KnownFolder) -> None:
        """Nothing is in flight. Raises DeviceLost."""
        began = self._clock()
        if self._held is not None:
            self._had, self._held = self._held.name, None
            self._memory.close(self._had)
        try:
            card = self._memory.open(folder)
        except DeviceLost:
            raise
        except Exception as error:
            self._could_not(folder, error, self._clock() - began)
            return
        self._held, self._held_since = card, self._clock()
        seconds = self._held_since - began
        self._folders.opened(folder, card, seconds)
        self._count(card.name, seconds, "loaded")
        self._announce(card)
        log.info("ready", model=card.name, seats=card.seats, sha256=card.sha256[:12], seconds=round(seconds, 2))

    def _could_not(self, folder: KnownFolder, error: Exception, seconds: float) -> None:
        """The others go on, and its jobs wait for a worker that can."""
        pause = self._folders.failed(folder)
        self._count(folder.name, seconds, "failed")
        said = {"model": folder.name, "folder": str(folder.path), "again_in_seconds": pause}
        if isinstance(error, ModelError):
            log.error("a model could not be loaded", **said, faults=error.faults)
        else:
            log.exception("a model could not be loaded", **said, exc_info=error)
        self._withdraw(folder.name)

    def _announce(self, card: ModelCard | None, *, ready_in: float | None = None, is_taken_up: bool = False) -> None:
        """Where Redis is away, the next beat says it."""
        assert card is not None
        self._announced.add(card.name)
        with suppress(redis.RedisError):
            self._announcing.announce(card, ready_in=ready_in, is_taken_up=is_taken_up)

    def _withdraw(self, model: str) -> None:
        self._announced.discard(model)
        with suppress(redis.RedisError):
            self._announcing.withdraw(model)


def _load(folder: KnownFolder) -> float:
    return folder.load_seconds or 0.0


def _drain(demand: Demand, card: ModelCard) -> float | None:
    """Seconds until the workers that have the model have begun all that waits, by Little's law. None without any."""
    if not demand.in_memory or demand.seat_seconds is None:
        return None
    return demand.waiting * demand.seat_seconds / (card.seats * demand.in_memory)
