"""Who steps together. No model and no tensor is needed to test fairness."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.batcher import Batcher


@dataclass(eq=False)
class Sitter:
    lane: str
    remaining: int = 1_000


def test_nobody_seated_nobody_chosen() -> None:
    assert Batcher().choose([]) == []


def test_a_lane_steps_as_a_whole_and_lanes_take_turns() -> None:
    a1, b1, a2, c1 = sitters = [Sitter(lane) for lane in "abac"]
    batcher = Batcher()
    turns = [batcher.choose(sitters) for _ in range(4)]
    assert turns == [[a1, a2], [b1], [c1], [a1, a2]]


def test_a_cap_takes_the_oldest_and_ends_when_the_lane_has_been_empty() -> None:
    sitters = [Sitter("a") for _ in range(5)]
    batcher = Batcher()
    batcher.choose(sitters)
    batcher.lower_cap("a", 5)
    assert batcher.choose(sitters) == sitters[:2]
    batcher.lower_cap("a", 1)
    assert batcher.choose(sitters) == sitters[:1]
    batcher.choose([])
    assert batcher.choose(sitters) == sitters


@given(st.lists(st.sampled_from("abcd"), min_size=60, max_size=60))
def test_short_visits_do_not_starve_a_long_stay(visitors: str) -> None:
    """Every step a new one-step sample of some lane walks in. The long one waits for the other lanes once, at most."""
    batcher, long = Batcher(), Sitter("long")
    seated, waited = [long], 0
    for lane in visitors:
        seated.append(Sitter(lane, remaining=1))
        chosen = batcher.choose(seated)
        waited = 0 if long in chosen else waited + 1
        assert waited <= 4
        seated = [sitter for sitter in seated if sitter is long or sitter not in chosen]
