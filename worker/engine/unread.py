"""Flags of steps that are still computed: whether each sample is made of numbers after it.

Knows which of them belong to the newest step, whose flags the host would have to wait for. Refuses to know what is done
about a sample that is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from worker.engine.denoise import Finite
from worker.engine.sample import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Unread:
    """Of one sample, at place `k` of a step's flags. `rows`: how many it took in that step."""

    sample: Sample
    finite: Finite
    k: int
    rows: int


class UnreadFlags:
    """In the order of their steps. For the engine's thread only."""

    def __init__(self) -> None:
        self._unread: list[Unread] = []
        self._newest: set[Finite] = set()

    def begin_step(self) -> None:
        """What is added from now on is of the newest step."""
        self._newest = set()

    def add(self, flag: Unread) -> None:
        self._unread.append(flag)
        self._newest.add(flag.finite)

    def take(self, *, but_newest: bool, of: Collection[Sample]) -> list[Unread]:
        """Those that are to be read now: all, or with `but_newest` only older ones and those `of` the samples given."""
        due = [each for each in self._unread if not but_newest or each.finite not in self._newest or each.sample in of]
        self._unread = [each for each in self._unread if each not in due]
        return due
