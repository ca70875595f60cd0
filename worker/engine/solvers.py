"""Solvers of all schedules in use: compiled once, remembered, and what to take instead of one that cannot be.

Knows schedules, and where they are compiled. Knows no table and no samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from threading import Lock
from typing import Any

from worker.engine.errors import GenerationFailed, is_out_of_memory
from worker.engine.solver import Schedule, SolverFactory
from worker.engine.stepping import takes

TABLES = 256
"""Compiled solvers that are remembered. One of fifty steps takes some 10 kB."""

NEAR = 5
"""How far from a number of steps that cannot be another one is looked for."""


class Solvers:
    """Schedules, compiled only once."""

    def __init__(self, compiler: Executor | None = None) -> None:
        self._compiler = compiler
        self._lock = Lock()
        self._known: OrderedDict[str, Future[SolverFactory]] = OrderedDict()

    def factory(self, schedule: Schedule) -> Future[SolverFactory]:
        """Compiled by the executor, or at once by the caller where there is none.

        The future raises GenerationFailed for a number of steps that this scheduler cannot take.
        """
        meaning = schedule.meaning
        with self._lock:
            known = self._known.get(meaning)
            future = self._known[meaning] = known or Future()
            self._known.move_to_end(meaning)
            if len(self._known) > TABLES:
                self._known.popitem(last=False)
        if known is None:
            run = _at_once if self._compiler is None else self._compiler.submit
            run(_compile, future, schedule)
        return future


def _compile(future: Future[SolverFactory], schedule: Schedule) -> None:
    try:
        future.set_result(SolverFactory(schedule))
    except Exception as error:
        future.set_exception(_refusal(schedule, error))


def _refusal(schedule: Schedule, error: Exception) -> Exception:
    """What whoever asked is told. A full memory says nothing about the scheduler, also while advice is sought."""
    if is_out_of_memory(error):
        return error
    try:
        advice = _advice(schedule)
    except Exception as full:
        return full
    reason = str(error).rstrip(".") or type(error).__name__
    refusal = GenerationFailed(
        f"The scheduler {schedule.name} cannot take {schedule.num_inference_steps} steps with this model "
        f"({reason}); {advice}."
    )
    refusal.__cause__ = error
    return refusal


def _advice(schedule: Schedule) -> str:
    """What would work instead: the nearest numbers of steps, as tried."""
    steps = schedule.num_inference_steps
    near = [steps + off for off in range(-NEAR, NEAR + 1) if off and steps + off > 0]
    # Which index is the same part of the way depends on the number of steps.
    way = replace(schedule.beginning, index=0, end=None)
    fit = [
        other
        for other in near
        if takes(
            schedule.scheduler,
            other,
            schedule.options,
            channels=schedule.channels,
            predicts_variance=schedule.predicts_variance,
            beginning=way,
        )
    ]
    nearest = sorted(sorted(fit, key=lambda other: abs(other - steps))[:2])
    return f"{' or '.join(map(str, nearest))} will do" if nearest else "take another scheduler"


def _at_once(call: Callable[..., None], *arguments: Any) -> None:
    call(*arguments)
