"""How regularly requests take their steps in the engine, and what decodes of others have to do with that.

Knows turns of an engine by their times and events. Knows no trace and no rival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.report import Column
from worker.engine.events import EngineEvent, Progress

GAPS = {
    "load": Column(label="load"),
    "gap_p99": Column(label="from step to step, p99", format=".2f"),
    "gap_most": Column(label="most", format=".2f"),
    "without_p99": Column(label="without decodes, p99", format=".2f"),
    "without_most": Column(label="most", format=".2f"),
    "decode_p99": Column(label="a decode over its step, p99", format=".2f"),
    "decode_most": Column(label="most", format=".2f"),
}


class TimedVae:
    """A VAE that counts the seconds that its decodes take."""

    def __init__(self, vae: Any, clock: Callable[[], float]) -> None:
        self._vae, self._clock, self.seconds = vae, clock, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, *args: Any, **options: Any) -> Any:
        began = self._clock()
        decoded = self._vae.decode(*args, **options)
        self.seconds += self._clock() - began
        return decoded


@dataclass(slots=True)
class Gaps:
    """Of one trace of requests for one picture each: `seconds` and `decoding`, for each turn of the engine, how long it
    took and how much of that was a decode, behind its step; `steps`, in which turns each request was evaluated.
    `decoded` says how many seconds decodes have taken so far."""

    decoded: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)
    _before: float = 0.0

    def begin(self) -> None:
        """Before a turn."""
        self._before = self.decoded()

    def note(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """After it."""
        for event in events:
            if isinstance(event, Progress):
                self.steps.setdefault(event.request_id, []).append(len(self.seconds))
        self.seconds.append(seconds)
        self.decoding.append(self.decoded() - self._before)

    def cells(self) -> dict[str, float]:
        """GAPS' of consecutive steps of one request, from the beginning of the one to the beginning of the other, over
        what the first of them took by itself; the same without the decodes in between; and each decode over the step
        that it followed."""
        own = [whole - decode for whole, decode in zip(self.seconds, self.decoding, strict=True)]
        gaps = [gap for turns in self.steps.values() for gap in pairwise(turns)]
        ratios = {
            "gap": [sum(self.seconds[one:other]) / own[one] for one, other in gaps],
            "without": [sum(own[one:other]) / own[one] for one, other in gaps],
            "decode": [decode / own[turn] for turn, decode in enumerate(self.decoding) if decode],
        }
        cells: dict[str, float] = {}
        for name, found in ratios.items():
            cells |= {f"{name}_p99": percentile(found), f"{name}_most": max(found)}
        return cells


def percentile(ratios: Sequence[float], of: float = 0.99) -> float:
    return sorted(ratios)[int(of * len(ratios))]
