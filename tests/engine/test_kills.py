"""Workers that are killed at random steps: little is done again, and no bit of a picture is another one."""

from __future__ import annotations

from functools import partial

from benchmarks.kills import run
from tests.engine.driving import engine_of
from worker.models.bundle import Bundle


def test_what_kills_at_random_steps_cost(epsilon_bundle: Bundle) -> None:
    """A few of those that the benchmark takes, with its clock."""
    figures = run(partial(engine_of, epsilon_bundle), kills=6, seed=3, steps=20, each=0.5, every=2.0)
    assert figures.kills == 6
    assert figures.differ == 0
    assert figures.snapshots > 6
    assert figures.share_twice <= 0.1


def test_without_snapshots_half_of_it_is_done_again(epsilon_bundle: Bundle) -> None:
    """So the figure can fail."""
    figures = run(partial(engine_of, epsilon_bundle), kills=3, seed=3, steps=20, each=0.001, every=2.0)
    assert figures.snapshots == 0
    assert figures.differ == 0
    assert figures.share_twice > 0.2
