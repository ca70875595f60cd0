"""Who takes the next step together. Pure Python: sees lanes, rows, depths, who can wait and the order of arrival, never
a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from worker.engine.deep import Depth

WAITING_CHARGE = 4
"""Times its cost that is charged for a step of samples that can wait: beside others they get a fifth of the device."""


class Lane(Protocol):
    """Samples of one lane may share a step."""

    @property
    def most_rows(self) -> int | None: ...


class Seated(Protocol):
    """All the batcher asks of a sample. `rows`, `depth` and `cost` are its next evaluation's; the cost is in any unit,
    as long as all lanes have the same. Nobody waits for one that `can_wait`."""

    @property
    def lane(self) -> Lane: ...

    @property
    def rows(self) -> int: ...

    @property
    def depth(self) -> Depth: ...

    @property
    def cost(self) -> float: ...

    @property
    def can_wait(self) -> bool: ...


S = TypeVar("S", bound=Seated)
Queue = tuple[Lane, bool]
"""Samples of one lane, and whether they can wait."""


class Batcher:
    """Fair queueing between lanes (Demers, Keshav and Shenker, 1989): each gets the same share of the device's
    arithmetic, so that large pictures do not starve small ones. Those of a lane that can wait are a queue of their own,
    with a smaller share. Whoever's turn it is goes first, oldest first; the others of the lane fill the step.
    """

    def __init__(self) -> None:
        self._spent: dict[Queue, float] = {}
        self._caps: dict[Lane, int] = {}

    def choose(self, samples: Sequence[S]) -> list[S]:
        """The samples that step now, all of one lane. `samples` come oldest first; none in, none out."""
        queues = self._queues(samples)
        if not queues:
            return []
        lane, can_wait = first = min(queues, key=lambda queue: self._spent[queue])
        chosen = self._oldest(lane, [*queues[first], *queues.get((lane, not can_wait), ())])
        # Where there is no choice nothing is charged, and a row's cost need not be known.
        if len(queues) > 1:
            self._charge(chosen)
        return chosen

    def _charge(self, chosen: Sequence[S]) -> None:
        costs: dict[Queue, float] = {}
        for sample in chosen:
            queue = sample.lane, sample.can_wait
            charged = sample.cost * (WAITING_CHARGE if sample.can_wait else 1)
            costs[queue] = costs.get(queue, 0.0) + charged
        for queue, cost in costs.items():
            # At the end of the order: of two that have spent the same, the one that has waited longer goes first.
            self._spent[queue] = self._spent.pop(queue) + cost

    def lower_cap(self, lane: Lane, rows: int) -> None:
        """A step of `rows` rows was too much: take half of it from now on, until the lane has been empty."""
        self._caps[lane] = max(1, rows // 2)

    def _oldest(self, lane: Lane, samples: Sequence[S]) -> list[S]:
        """As many as the lane takes rows for, and always the first: nobody is too large to go alone. Those that ask the
        outermost layers only are launched one after the other with the others: so many rows of either."""
        limits = [limit for limit in (lane.most_rows, self._caps.get(lane)) if limit is not None]
        chosen: list[S] = []
        rows: Counter[bool] = Counter()
        for sample in samples:
            part = sample.depth is Depth.OUTER
            is_first = not rows[part]
            rows[part] += sample.rows
            if is_first or not limits or rows[part] <= min(limits):
                chosen.append(sample)
        return chosen

    def _queues(self, samples: Sequence[S]) -> dict[Queue, list[S]]:
        queues: dict[Queue, list[S]] = {}
        for sample in samples:
            queues.setdefault((sample.lane, sample.can_wait), []).append(sample)
        new = {queue: self._last(can_wait=queue[1]) for queue in queues if queue not in self._spent}
        self._spent = {queue: spent for queue, spent in self._spent.items() if queue in queues} | new
        lanes = {lane for lane, _ in queues}
        self._caps = {lane: cap for lane, cap in self._caps.items() if lane in lanes}
        return queues

    def _last(self, *, can_wait: bool) -> float:
        """A new lane queues up behind the others of its kind. Were it served at once, a stream of short requests, each
        opening its lane anew, would starve a long one. Behind those that can wait it would stand for four times what
        their last step took."""
        alike = [spent for (_, each), spent in self._spent.items() if each == can_wait]
        return max(alike or self._spent.values(), default=0.0)


def in_parts(samples: Sequence[S]) -> list[list[S]]:
    """Those that step together, by what is launched for them: the whole network, and its outermost layers."""
    whole = [sample for sample in samples if sample.depth is not Depth.OUTER]
    outer = [sample for sample in samples if sample.depth is Depth.OUTER]
    return [part for part in (whole, outer) if part]
