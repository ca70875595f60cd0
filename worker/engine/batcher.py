"""Who takes the next step together. Pure Python: sees lanes, rows, depths and the order of arrival, never a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from worker.engine.deep import Depth


class Lane(Protocol):
    """Samples of one lane may share a step."""

    @property
    def most_rows(self) -> int | None: ...


class Seated(Protocol):
    """All the batcher asks of a sample. `rows`, `depth` and `cost` are its next evaluation's; the cost is in any unit,
    as long as all lanes have the same."""

    @property
    def lane(self) -> Lane: ...

    @property
    def rows(self) -> int: ...

    @property
    def depth(self) -> Depth: ...

    @property
    def cost(self) -> float: ...


S = TypeVar("S", bound=Seated)


class Batcher:
    """Fair queueing between lanes (Demers, Keshav and Shenker, 1989): each gets the same share of the device's
    arithmetic, so that large pictures do not starve small ones. Inside a lane the oldest samples go first.
    """

    def __init__(self) -> None:
        self._spent: dict[Lane, float] = {}
        self._caps: dict[Lane, int] = {}

    def choose(self, samples: Sequence[S]) -> list[S]:
        """The samples that step now, all of one lane. `samples` come oldest first; none in, none out."""
        lanes = self._by_lane(samples)
        if not lanes:
            return []
        lane = min(lanes, key=lambda lane: self._spent[lane])
        chosen = self._oldest(lane, lanes[lane])
        # Where there is no choice nothing is charged, and a row's cost need not be known.
        if len(lanes) > 1:
            spent = self._spent.pop(lane) + sum(sample.cost for sample in chosen)
            # At the end of the order: of two that have spent the same, the one that has waited longer goes first.
            self._spent[lane] = spent
        return chosen

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

    def _by_lane(self, samples: Sequence[S]) -> dict[Lane, list[S]]:
        lanes: dict[Lane, list[S]] = {}
        for sample in samples:
            lanes.setdefault(sample.lane, []).append(sample)
        # A new lane queues up behind the others. Were it served at once, a stream of short requests, each opening
        # its lane anew, would starve a long one.
        last = max(self._spent.values(), default=0.0)
        kept = {lane: spent for lane, spent in self._spent.items() if lane in lanes}
        self._spent = kept | {lane: last for lane in lanes if lane not in kept}
        self._caps = {lane: cap for lane, cap in self._caps.items() if lane in lanes}
        return lanes


def in_parts(samples: Sequence[S]) -> list[list[S]]:
    """Those that step together, by what is launched for them: the whole network, and its outermost layers."""
    whole = [sample for sample in samples if sample.depth is not Depth.OUTER]
    outer = [sample for sample in samples if sample.depth is Depth.OUTER]
    return [part for part in (whole, outer) if part]
