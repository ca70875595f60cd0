"""When a step is captured, when it is not, and when that is tried again. Captures themselves need a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.driving import lanes_of
from worker.engine import graphs
from worker.engine.denoise import Plan
from worker.engine.graphs import StepGraphs
from worker.engine.rows import Mode, Rows
from worker.models.bundle import Bundle

CPU = torch.device("cpu")


class Captures:
    """Those that were tried, by their rows; each raises what `fails` says."""

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.fails: Exception | None = None

    def __call__(self, step: Any, rows: int, *rest: Any) -> Any:
        self.tried.append(rows)
        if self.fails is not None:
            raise self.fails
        return SimpleNamespace(replay=lambda *given: "replayed")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    captures = Captures()
    monkeypatch.setattr(graphs, "_Captured", captures)
    return captures


def calls(memory: Any, **options: Any) -> Callable[[int], str]:
    own: Any = StepGraphs(lambda *given: "launched", memory, **options)  # type: ignore[arg-type]
    return lambda rows: own(*Plan((), rows=rows, samples=rows).on(CPU))  # type: ignore[no-any-return]


def test_a_step_for_which_there_was_no_memory_is_captured_when_there_is_some_again(captures: Captures) -> None:
    memory = SimpleNamespace(rooms=0)
    call, captures.fails = calls(memory), torch.OutOfMemoryError("CUDA out of memory.")
    assert [call(4), call(4)] == ["launched", "launched"]
    assert captures.tried == [4], "not at every step: a capture takes a while"
    captures.fails = None
    assert (call(2), call(4)) == ("replayed", "launched")
    memory.rooms += 1
    assert (call(4), call(4)) == ("replayed", "replayed")
    assert captures.tried == [4, 2, 4]


def test_behind_a_capture_that_failed_no_other_follows(captures: Captures) -> None:
    call = calls(SimpleNamespace(rooms=0))
    assert call(2) == "replayed"
    captures.fails = RuntimeError("operation not permitted when stream is capturing")
    assert [call(4), call(6), call(4)] == ["launched"] * 3
    assert captures.tried == [2, 4]
    assert call(2) == "replayed"


def test_a_device_that_is_lost_while_a_step_is_captured_is_not_taken_for_a_step_that_cannot_be(
    captures: Captures,
) -> None:
    captures.fails = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(torch.AcceleratorError):
        calls(SimpleNamespace(rooms=0))(4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("not permitted")])
def test_where_steps_have_to_be_captured_one_that_cannot_be_is_not_launched(
    captures: Captures, error: Exception
) -> None:
    captures.fails = error
    with pytest.raises(type(error)):
        calls(SimpleNamespace(rooms=0), strict=True)(4)


@pytest.mark.parametrize(
    ("replay", "is_empty"), [(lambda answers: None, True), (lambda answers: answers.fill_(False), False)]
)
def test_what_was_captured_must_do_something(replay: Callable[[torch.Tensor], None], is_empty: bool) -> None:
    captured = object.__new__(graphs._Captured)
    captured._finite = torch.ones(4, dtype=torch.bool)
    graph: Any = SimpleNamespace(replay=lambda: replay(captured._finite))
    captured._graph = graph
    if is_empty:
        with pytest.raises(RuntimeError, match="does nothing"):
            captured._check()
    else:
        captured._check()


def test_what_warm_up_captured_outlives_a_pause_and_gives_way_when_memory_is_short(epsilon_bundle: Bundle) -> None:
    lanes = lanes_of(epsilon_bundle, seats=2)
    native = lanes.open(lanes.native)
    native._run = StepGraphs(native.step, None)  # type: ignore[arg-type]
    for now in (0.0, 1e6):
        lanes.sweep(now)
    assert lanes.open(lanes.native) is native
    assert lanes.drop_idle()
    assert lanes.open(lanes.native) is not native


def test_of_too_many_lanes_with_graphs_the_one_that_was_empty_for_longest_goes(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the native one, and not one in which somebody sits. For a rescue, which is not captured, nobody goes."""
    monkeypatch.setattr("worker.engine.lanes.WITH_GRAPHS", 4)
    lanes, memory = lanes_of(epsilon_bundle, seats=2), SimpleNamespace(rooms=0)
    lanes.__dict__["_graph_memory"] = memory
    native = lanes.native
    channels, height, width = native.latent_shape
    taken = replace(native, mode=Mode.REPRODUCIBLE)
    older, newer, another, third, last = (
        replace(native, latent_shape=(channels, height, width + 8 * k)) for k in range(1, 6)
    )
    for since, key in enumerate([native, taken, older, newer]):
        lanes.open(key).idle_since = float(since)
    lanes.open(taken).take_seat(Rows({name: torch.zeros(shape) for name, shape in taken.conditioning}))
    lanes.open(replace(native, mode=Mode.RESCUE))
    assert (len(lanes._lanes), memory.rooms) == (5, 0)
    assert [lanes.open(key).captures for key in (another, third, last)] == [True, True, False]
    assert older not in lanes._lanes
    assert newer not in lanes._lanes
    assert {native, taken} < lanes._lanes.keys()
    assert memory.rooms == 2, "what there was no memory to capture may be tried again"
