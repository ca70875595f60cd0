"""Who takes the next step together. Pure Python: sees lanes and the order of arrival, never a tensor."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar


class Seated(Protocol):
    """All the batcher asks of a sample. Samples of one lane may share a step."""

    @property
    def lane(self) -> Hashable: ...


S = TypeVar("S", bound=Seated)


class Batcher:
    """Lanes take turns; inside a lane the oldest samples go first."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[Hashable, int] = {}
        self._caps: dict[Hashable, int] = {}

    def choose(self, samples: Sequence[S]) -> list[S]:
        """The samples that step now, all of one lane. `samples` come oldest first; none in, none out."""
        lanes = self._by_lane(samples)
        if not lanes:
            return []
        lane = min(lanes, key=lambda lane: self._last_turn[lane])
        self._turn += 1
        self._last_turn[lane] = self._turn
        return lanes[lane][: self._caps.get(lane)]

    def lower_cap(self, lane: Hashable, size: int) -> None:
        """A batch of `size` samples was too much: take half of it from now on, until the lane has been empty."""
        self._caps[lane] = max(1, size // 2)

    def _by_lane(self, samples: Sequence[S]) -> dict[Hashable, list[S]]:
        lanes: dict[Hashable, list[S]] = {}
        for sample in samples:
            lanes.setdefault(sample.lane, []).append(sample)
        # A new lane queues up behind the others. Were it served at once, a stream of short requests, each opening
        # its lane anew, would starve a long one.
        self._last_turn = {lane: self._last_turn.get(lane, self._turn) for lane in lanes}
        self._caps = {lane: cap for lane, cap in self._caps.items() if lane in lanes}
        return lanes
