"""Which model a worker with several folders should have in memory next, if not the one it has.

A queue that waits is worth a swap once it has waited for as long as the swap takes: so no more time goes into swaps
than into waiting, whatever comes (the break-even rule of renting or buying; Karlin et al. 1988, "Competitive snoopy
caching").
A model that has jobs of its own is held for a while all the same, and then gives way to whoever has waited longest; the
bound that follows is in docs/reliability.md. Knows numbers. Refuses to know Redis, folders and clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LOADS_HELD = 5.0
"""A model that has jobs stays for so many times what loading the next one takes: at most a sixth of the time is spent
on swaps, however many queues are never empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that could be taken up: `waiting` jobs, for `unserved` seconds without one being claimed; `load` is how
    many seconds it takes to load, `drain` how many until the workers that have it have begun all of those jobs, None
    where nobody has it."""

    name: str
    waiting: int
    unserved: float
    load: float
    drain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The model in memory: for so many seconds `since` it was taken up. `is_busy`: it has jobs that wait, or that are
    being drawn; who sends the next one when the last has ended leaves no queue. It stays for `hold` seconds at least
    while it is."""

    is_busy: bool
    since: float
    hold: float

    def left(self, load: float) -> float:
        """Seconds for which it stays though another, which takes so long to load, waits."""
        return max(0.0, max(self.hold, LOADS_HELD * load) - self.since) if self.is_busy else 0.0


def next_model(candidates: Iterable[Candidate], held: Held | None) -> Candidate | None:
    """The one to take up now, or None: stay. `held` is None while nothing is in memory."""
    wanted = [each for each in candidates if each.waiting]
    due = [each for each in wanted if held is None or _is_due(each, held)]
    if due:
        return max(due, key=lambda each: each.unserved)
    if held is None or held.is_busy:
        return None
    # Nobody waits for this worker: it may help where others have more than they get through.
    behind = [each for each in wanted if each.drain is not None and each.drain > 2 * each.load]
    return max(behind, key=lambda each: each.drain or 0.0, default=None)


def _is_due(candidate: Candidate, held: Held) -> bool:
    return candidate.unserved >= patience(candidate.load, held) and held.left(candidate.load) <= 0


def patience(load: float, held: Held) -> float:
    """Seconds that a queue waits before this worker takes its model up: where the worker has jobs of its own, for twice
    the load, so that one that has none goes first."""
    return 2 * load if held.is_busy else load


def ready_in(load: float, held: Held | None, *, running: float) -> float:
    """Seconds after which a job that came now would find the model in memory: an estimate. `running` is how long the
    worker's own jobs have yet to run."""
    if held is None:
        return load
    return max(patience(load, held), held.left(load)) + running + load
