"""How state machines are played: the same examples each time in the suite, as many more as are named in `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

NAMED = os.environ.get("DARKROOM_TEST_INTERLEAVINGS")


def play(machine: Callable[[], RuleBasedStateMachine], *, examples: int) -> None:
    limits = settings(
        max_examples=int(NAMED or examples),
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(machine, settings=limits)
