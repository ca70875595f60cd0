"""How many rows a step should have on this device: measured once, by taking steps.

Knows time and lanes. Knows no files: what was measured is remembered elsewhere (worker/profiles.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import torch

from worker.engine.lane import Lane

log = structlog.get_logger()

SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Rows of the steps that are timed. The smallest is one guided picture."""

WORTH = 1.05
"""The next size must bring so many times the rows a second, or it only makes everybody wait longer."""

TRIES = 2
"""The best of so many counts: a busy machine only makes things slower."""

LONGEST_STEP = 5.0
"""Seconds. Where time ran out before the best size was found, a step should at least not keep newcomers, cancels and
deadlines waiting for longer."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Profile:
    """`rows`: the most in one step at the native size, None for no limit. `row_cost`: of such a row, in FLOPs.

    `rows_a_second` by rows in the step, as far as it was measured; on a CPU, of the process's own time. `is_complete`:
    there was time to find the best size.
    """

    rows: int | None
    row_cost: float
    rows_a_second: Mapping[int, float]
    is_complete: bool = True

    def rows_for(self, row_cost: float) -> int | None:
        """The most rows of another size: they fill the device as well when they cost as much. Never below two."""
        return None if self.rows is None else max(2, round(self.rows * self.row_cost / row_cost))


def measure(
    lane: Lane, *, most_rows: int, seconds: float, clock: Clock = time.perf_counter, stopwatch: Clock | None = None
) -> Profile:
    """Time steps of `lane`, larger and larger ones, until they are no longer worth it.

    `most_rows` is what all seats together can need. Takes some `seconds` by `clock` at most, and one step if that takes
    longer. Steps are timed by `stopwatch`: on a CPU that is the time this process was given, which others who use the
    machine at the moment do not distort as much.
    """
    stopwatch = stopwatch or (time.process_time if lane.bundle.device.type == "cpu" else clock)
    rates: dict[int, float] = {}
    ends, last, rows = clock() + seconds, 0.0, None
    for size in [size for size in SIZES if size < most_rows] + [most_rows]:
        largest = max(rates, default=size)
        # A larger step is at most as much slower as it is larger.
        if rates and clock() + (1 + TRIES) * last * size / largest > ends:
            return _told(Profile(max(largest, int(largest * LONGEST_STEP / last)), lane.row_cost, rates, False))
        started = clock()
        try:
            best, runs = _seconds_of(lane, size, ends, clock, stopwatch)
        except torch.OutOfMemoryError:
            rows = max(rates, default=min(SIZES))
            break
        rates[size], last = size / best, (clock() - started) / runs
        if (rows := knee(rates)) is not None:
            break
    return _told(Profile(rows, lane.row_cost, rates))


def _told(profile: Profile) -> Profile:
    rates = {rows: round(rate, 1) for rows, rate in profile.rows_a_second.items()}
    log.info("profiled", most_rows=profile.rows, complete=profile.is_complete, rows_a_second=rates)
    return profile


def knee(rates: Mapping[int, float]) -> int | None:
    """The first size after which the next two bring less than 5 % more rows a second. None as long as there is none.

    Two, because one size may suit a device badly.
    """
    sizes = sorted(rates)
    for size, *larger in zip(sizes, sizes[1:], sizes[2:], strict=False):
        if all(rates[rows] < WORTH * rates[size] for rows in larger):
            return size
    return None


def _seconds_of(lane: Lane, rows: int, ends: float, clock: Clock, stopwatch: Clock) -> tuple[float, int]:
    """Of the best run, and how many there were. The first takes what later ones find made, a graph for one."""
    best = float("inf")
    for run in range(1, 2 + TRIES):
        started = stopwatch()
        lane.rehearse(rows)
        best = min(best, stopwatch() - started)
        if run > 1 and clock() > ends:
            break
    return best, run
