"""Which model is worth a swap, and when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.next_model import LOADS_HELD, Candidate, Held, next_model, patience, ready_in

IDLE = Held(is_busy=False, since=0.0, hold=30.0)
FRESH = Held(is_busy=True, since=0.0, hold=30.0)
HELD_LONG = Held(is_busy=True, since=math.inf, hold=30.0)


def waits(
    name: str = "cold", *, unserved: float, load: float = 10.0, waiting: int = 1, drain: float | None = None
) -> Candidate:
    return Candidate(name=name, waiting=waiting, unserved=unserved, load=load, drain=drain)


def name_of(*candidates: Candidate, held: Held | None) -> str | None:
    found = next_model(candidates, held)
    return found.name if found else None


@pytest.mark.parametrize(
    ("held", "unserved", "is_taken_up"),
    [
        (None, 0.0, True),
        (IDLE, 9.9, False),
        (IDLE, 10.0, True),
        (HELD_LONG, 19.9, False),
        (HELD_LONG, 20.0, True),
        (FRESH, 1e6, False),
        (Held(is_busy=True, since=LOADS_HELD * 10 - 0.1, hold=30.0), 1e6, False),
        (Held(is_busy=True, since=LOADS_HELD * 10, hold=30.0), 1e6, True),
        (Held(is_busy=True, since=LOADS_HELD * 10, hold=60.0), 1e6, False),
    ],
)
def test_a_queue_is_worth_a_swap_when_it_has_waited_for_as_long(
    held: Held | None, unserved: float, is_taken_up: bool
) -> None:
    """Twice that, and a while of being held, where the worker has jobs of its own."""
    assert (name_of(waits(unserved=unserved), held=held) == "cold") is is_taken_up


def test_the_one_that_has_waited_longest_goes_first() -> None:
    both = waits("a", unserved=40.0), waits("b", unserved=50.0), waits("none", unserved=99.0, waiting=0)
    assert name_of(*both, held=IDLE) == "b"
    assert name_of(*both[::-1], held=HELD_LONG) == "b"


def test_who_has_nothing_to_do_helps_those_who_do_not_get_through() -> None:
    """Their queue is served all the time, and would take longer than a swap even so."""
    behind = waits("hot", unserved=0.5, waiting=100, drain=20.1)
    assert name_of(behind, held=IDLE) == "hot"
    assert name_of(behind, held=HELD_LONG) is None, "not who has jobs of its own"
    assert name_of(waits("hot", unserved=0.5, waiting=100, drain=19.9), held=IDLE) is None
    assert name_of(behind, waits("cold", unserved=10.0), held=IDLE) == "cold", "nobody else serves that one"


loads, seconds = st.floats(0, 1e3), st.floats(0, 1e5)


@given(loads, st.builds(Held, is_busy=st.booleans(), since=seconds, hold=seconds), seconds)
def test_an_estimate_is_never_before_what_it_estimates(load: float, held: Held, running: float) -> None:
    """A job that comes now finds the model when its queue has been due, the worker at rest, and the model loaded."""
    wait = ready_in(load, held, running=running) - load - running
    assert wait >= patience(load, held) or math.isclose(wait, patience(load, held), abs_tol=1e-6)
    assert ready_in(load, None, running=running) == load
