"""How many rows a step should have on this device: measured once, by taking steps.

Knows time and lanes. Knows no files: what was measured is remembered elsewhere (worker/profiles.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
import torch

from worker.engine.costs import Profile
from worker.engine.errors import engine_error, is_out_of_memory
from worker.engine.lane import Lane

log = structlog.get_logger()

SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Rows of the steps that are timed. The smallest is one guided picture."""

WORTH = 1.05
"""The next size must bring so many times the rows a second, or it only makes everybody wait longer."""

TRIES = 2
"""The best of so many counts: a busy machine only makes things slower."""

LONGEST_STEP = 5.0
"""Seconds. Where time ran out before the best size was found, a step should at least not keep newcomers and cancels
waiting for longer."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears how far a warm-up is, in rows of a step: before one is compiled, and when one has been timed."""

    measured: Callable[[int], None] = lambda rows: None
    compiling: Callable[[int], None] = lambda rows: None


NOBODY = Told()


def profile_of(lane: Lane, known: Profile | None, *, most_rows: int, seconds: float, told: Told = NOBODY) -> Profile:
    """What is `known` of the lane, completed: a later start goes on where time ran out. All steps that it will take are
    compiled and captured then, as far as the lane does that.

    Raises DeviceLost and CannotCompile.
    """
    # The smallest first: what is known of steps that were not compiled says nothing of those that are.
    _compile(lane, min(SIZES), told)
    if known is not None and known.is_compiled != lane.is_compiled:
        known = None
    profile = known
    if profile is None or not profile.is_complete:
        profile = measure(lane, most_rows=most_rows, seconds=seconds, known=known, told=told)
    # Where it could not be timed, there may be memory for it at another start.
    decode_seconds = known.decode_seconds if known else 0.0
    profile = replace(profile, decode_seconds=decode_seconds or time_decode(lane), is_compiled=lane.is_compiled)
    most = min(rows for rows in (most_rows, profile.rows, lane.most_rows) if rows is not None)
    for size in [*(size for size in SIZES if size < most), most]:
        _compile(lane, size, told)
    lane.capture(most)
    return profile


def _compile(lane: Lane, rows: int, told: Told) -> None:
    if not lane.is_to_compile(rows):
        return
    told.compiling(rows)
    try:
        lane.compile(rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("no memory to compile a step", rows=rows)


def measure(
    lane: Lane,
    *,
    most_rows: int,
    seconds: float,
    known: Profile | None = None,
    told: Told = NOBODY,
    clock: Clock = time.perf_counter,
    stopwatch: Clock | None = None,
) -> Profile:
    """Time steps of `lane`, larger and larger ones, until they are no longer worth it.

    `most_rows` is what all seats together can need; an incomplete `known` is gone on with, if a further size would fit
    into the time. Takes some `seconds` by `clock` at most, and one step if that takes longer; beside compiling each
    size and, on a GPU, its first run. Steps are timed by `stopwatch`: on a CPU that is the time this process was given,
    which others who use the machine at the moment do not distort as much.
    """
    on_cpu, on_cuda = lane.device.type == "cpu", lane.device.type == "cuda"
    most_runs = TRIES if on_cuda else 1 + TRIES
    stopwatch = stopwatch or (time.process_time if on_cpu else clock)
    rates, waits = (dict(known.rows_a_second), dict(known.seconds)) if known else ({}, {})
    ends, rows, last = clock() + seconds, None, 0.0
    if rates:
        # The machine may have been busy then. What a step took of it counts, where that is less.
        last = min(waits[max(rates)], max(rates) / rates[max(rates)])
    for size in [size for size in SIZES if size < most_rows and size not in rates] + [most_rows]:
        largest = max(rates, default=size)
        # A larger step is at most as much slower as it is larger.
        if rates and clock() + most_runs * last * size / largest > ends:
            if known is not None and rates.keys() == known.rows_a_second.keys():
                return known
            rows = max(largest, int(largest * LONGEST_STEP / last))
            return _logged(Profile(rows, lane.row_cost, rates, is_complete=False, seconds=waits))
        try:
            ends += _first_run(lane, size, clock, told)
            enough = 0.0 if on_cuda else seconds if on_cpu else math.inf
            best, runs = _seconds_of(lane, size, ends, clock, stopwatch, most=most_runs, enough=enough)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rows = max(rates, default=min(SIZES))
            break
        rates[size], waits[size] = size / best, runs[-1]
        last = sum(runs) / len(runs)
        told.measured(size)
        if (rows := knee(rates)) is not None:
            break
    return _logged(Profile(rows, lane.row_cost, rates, seconds=waits))


def time_decode(lane: Lane, *, clock: Clock = time.perf_counter) -> float:
    """Seconds until a picture of the lane's size is decoded; 0 where that fails, which is a request's affair, later,
    and where there is no memory for a whole one.

    Raises DeviceLost.
    """
    if lane.decodes()[1] is not None:
        return 0.0
    device, started = lane.device, clock()
    try:
        lane.rehearse_decode()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        log.warning("a decode could not be timed", reason=engine_error(error, stage="decode").detail)
        return 0.0
    return clock() - started


def _logged(profile: Profile) -> Profile:
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


def _first_run(lane: Lane, rows: int, clock: Clock, told: Told) -> float:
    """Seconds of what the timed runs find made. Compiling takes about a minute. On a GPU, kernels are chosen and
    loaded, workspaces taken, a graph captured: on an H100 that was 0.2 to 1.1 s for steps of 11 to 110 ms, which it
    says nothing about."""
    started = clock()
    _compile(lane, rows, told)
    if lane.device.type == "cuda":
        lane.rehearse(rows)
    return clock() - started


def _seconds_of(
    lane: Lane, rows: int, ends: float, clock: Clock, stopwatch: Clock, *, most: int, enough: float
) -> tuple[float, list[float]]:
    """Of the best run by the stopwatch, and of each by the clock, of `most` of them. Where no first run went before,
    the first takes what later ones find made; if it takes more than `enough`, that is little beside the step, which is
    not waited for twice."""
    best, runs = float("inf"), list[float]()
    while len(runs) < most:
        started, began = stopwatch(), clock()
        lane.rehearse(rows)
        best = min(best, stopwatch() - started)
        runs.append(clock() - began)
        if clock() > ends and (best > enough or len(runs) > 1):
            break
    return best, runs
