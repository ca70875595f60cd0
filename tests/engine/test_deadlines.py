"""Deadlines at more load than one worker carries: real scripts, real road, real engine, and a time that is not.

No verdict depends on a machine: how long a step takes is a number here.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks import deadlines
from benchmarks.deadlines import Arrival, Costs, Outcome, Way, served, traced
from tests.engine.tiny_models import SIDE
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle

COSTS = Costs(step=0.012, sample=0.008, seats=4)


@pytest.fixture(scope="module")
def trace(epsilon_bundle: Bundle) -> list[Arrival]:
    """Of every kind: alone and several pictures, reproducible and not."""
    words = ["--jobs", "24", "--side", str(SIDE), "--seats", "4", "--reproducible", "0.5", "--seed", "1"]
    with pytest.MonkeyPatch.context() as shorter:
        shorter.setattr(deadlines, "STEPS", {"interactive": (4, 6, 8), "batch": (10, 15)})
        return traced(epsilon_bundle, COSTS, deadlines._parser().parse_args(words))


@pytest.fixture(scope="module")
def outcomes(epsilon_bundle: Bundle, trace: list[Arrival]) -> dict[str, Outcome]:
    ways = {"ours": Way(urgencies=True, park=60.0), "first come": Way(urgencies=False, park=0.0)}
    return {name: asyncio.run(served(epsilon_bundle, trace, COSTS, way)) for name, way in ways.items()}


def met(trace: list[Arrival], outcome: Outcome) -> float:
    due = {number: ms / 1000 for number, each in enumerate(trace) if (ms := each.urgency.deadline_ms)}
    return sum(outcome.ends[number] - trace[number].at <= seconds for number, seconds in due.items()) / len(due)


def test_deadlines_are_met_that_first_come_first_served_misses(
    trace: list[Arrival], outcomes: dict[str, Outcome]
) -> None:
    ours, first_come = (met(trace, outcome) for outcome in outcomes.values())
    assert ours >= 0.95
    assert first_come < 0.7


def test_nothing_is_lost_and_nothing_is_computed_twice(trace: list[Arrival], outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert sorted(outcome.ends) == list(range(len(trace)))
        assert outcome.evaluations == sum(arrival.evaluations for arrival in trace)


def test_pictures_of_jobs_that_were_put_aside_are_those_of_undisturbed_ones(
    epsilon_bundle: Bundle, trace: list[Arrival], outcomes: dict[str, Outcome]
) -> None:
    parked = sorted({*outcomes["ours"].parked})
    kinds = {trace[number].spec.reproducible for number in parked}
    assert kinds == {True, False}
    for number in parked:
        spec = trace[number].spec
        engine = Engine(family_of(epsilon_bundle), seats=4)
        engine.submit(Request.of("alone", spec))
        events = []
        while not engine.idle:
            events += engine.step()
        [alone] = [event.pictures for event in events if isinstance(event, Finished)]
        for undisturbed, picture in zip(alone, outcomes["ours"].pictures[number], strict=True):
            apart = int(np.abs(undisturbed.astype(int) - picture.astype(int)).max())
            # Others in its batch may round otherwise; a picture has 255 steps for 5e-5.
            assert apart <= (0 if spec.reproducible else 1)
