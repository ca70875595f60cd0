"""What fits into a GPU's memory, told by a meter that reads from a script."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.engine.driving import engine_of, lanes_of, scripted, wish
from tests.engine.tiny_models import SIDE
from worker.engine.costs import AT_ONCE, SPARE, Memory
from worker.engine.denoise import sizes
from worker.engine.graphs import StepGraphs
from worker.engine.lane import Lane
from worker.engine.memory import estimated_memory, measure_memory
from worker.machine import Room
from worker.models.bundle import Bundle

MIB = float(2**20)
WEIGHTS = 5e6


class ScriptedMeter:
    """A device with `free` MiB, where a step takes 100 and 30 for each row, and a decode 200. It does the work."""

    def __init__(self, lane: Lane, *, free: float, fits: int = 1_000) -> None:
        self._lane, self._free, self._fits = lane, free, fits
        self._rows = 0
        lane.step.register_forward_pre_hook(self._look)

    def _look(self, step: object, given: tuple[torch.Tensor, ...]) -> None:
        self._rows, _ = sizes(given[0], given[1])
        if self._rows > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def peak(self, work: Callable[[], object]) -> float:
        self._rows = 0
        work()
        return (100 + 30 * self._rows if self._rows else 200) * MIB

    def free(self) -> float:
        return self._free * MIB


@pytest.fixture
def lane(epsilon_bundle: Bundle) -> Lane:
    lanes = lanes_of(epsilon_bundle, seats=2)
    return lanes.open(lanes.native)


def test_a_row_a_step_and_a_decode_are_told_apart(lane: Lane) -> None:
    with torch.inference_mode():
        memory = measure_memory(lane, weights=WEIGHTS, meter=ScriptedMeter(lane, free=2_000))
    assert memory is not None
    assert (memory.row, memory.step) == (30 * MIB, 100 * MIB)
    assert memory.free == ((1 - SPARE) * 2_000 - AT_ONCE * 200) * MIB
    assert memory.rows(1.0) == (1_900 - 800 - 100) // 30


def test_graphs_take_a_steps_memory_once_more(lane: Lane) -> None:
    """They keep theirs, and the runs before the next capture need as much beside it."""
    with torch.inference_mode():
        lane._run = StepGraphs(lane.step, None)  # type: ignore[arg-type]
        memory = measure_memory(lane, weights=WEIGHTS, meter=ScriptedMeter(lane, free=2_000))
    assert memory is not None
    assert memory.rows(1.0) == (1_900 - 800 - 200) // 60
    assert memory.largest == (1_900 - 100) / 60, "one that cannot be captured is launched kernel by kernel"


def test_where_a_few_rows_do_not_fit_nothing_is_promised(lane: Lane) -> None:
    with torch.inference_mode():
        assert measure_memory(lane, weights=WEIGHTS, meter=ScriptedMeter(lane, free=100, fits=4)) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU to measure")
def test_a_cpu_is_told_by_its_model_and_its_machine(lane: Lane) -> None:
    """Without a step or a decode: on a slow one, each takes a minute."""
    lane.rehearse = lane.rehearse_decode = None  # type: ignore[assignment, method-assign]
    memory = measure_memory(lane, weights=WEIGHTS)
    assert memory is not None
    assert 0 < memory.row < memory.most
    assert memory.picture > 0


def test_weights_that_may_still_come_are_left_room(lane: Lane) -> None:
    """On either kind of device, in the size of a step and of the largest picture."""
    meter = ScriptedMeter(lane, free=5_000)
    on_gpu = [measure_memory(lane, weights=WEIGHTS, later=later, meter=meter) for later in (0.0, 700 * MIB)]
    on_cpu = [
        estimated_memory(lane, lambda: Room(9e9, 5e9, "this machine"), weights=WEIGHTS, later=later)
        for later in (0.0, 700 * MIB)
    ]
    for without, beside in (on_gpu, on_cpu):
        assert without is not None
        assert beside is not None
        assert without.free - beside.free == pytest.approx(700 * MIB)
        assert without.most - beside.most == pytest.approx(700 * MIB)


def test_what_is_free_on_a_cpu_is_asked_for_each_decode(lane: Lane) -> None:
    rooms = [Room(2e9, 1e9, "a group"), Room(2e9, 3e6, "a group"), Room(2e9, 5e5, "a group")]
    memory = estimated_memory(lane, lambda: rooms.pop(0), weights=WEIGHTS)
    assert memory.most == (1 - SPARE) * (2e9 - WEIGHTS)
    assert memory.free == (1 - SPARE) * 1e9 - memory.picture
    assert memory.pictures(1.0) == pytest.approx((1 - SPARE) * 3e6 / memory.picture)
    assert memory.pictures(4.0) == pytest.approx((1 - SPARE) * 5e5 / memory.picture / 4)


def test_the_largest_picture_is_one_of_which_a_guided_step_fits() -> None:
    assert Memory(free=0, step=200, row=50, most=1_000).largest == 8
    assert Memory(free=0, step=200, row=50).largest == float("inf")


def test_larger_pictures_are_fewer_and_one_goes_in_any_case() -> None:
    memory = Memory(free=1_000, step=200, row=50)
    assert [memory.rows(scale) for scale in (1.0, 2.25, 4.0, 100.0)] == [16, 7, 4, 2]
    assert Memory(free=-500, step=200, row=50).rows(1.0) == 2


def test_the_engine_keeps_to_its_memory(epsilon_bundle: Bundle) -> None:
    """Four rows of the native size fit: two guided pictures at a time, and one of those that are twice as large."""
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    engine = engine_of(bundle)
    engine._lanes.costs.memory = Memory(free=4.0, step=0.0, row=1.0)
    for k in range(3):
        engine.submit(wish(str(k), seed=k, num_inference_steps=1))
        engine.submit(wish(f"wide {k}", seed=k, width=2 * SIDE, num_inference_steps=1))
    while not engine.idle:
        engine.step()
    assert sorted(unet.batches) == [2, 2, 2, 2, 4]
