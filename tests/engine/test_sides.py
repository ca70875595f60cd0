"""Side networks in the step by itself: who is asked, what reaches the denoiser, and that it stays one graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.driving import wish
from tests.engine.fake_cuda import FakeCuda, Launch, Made
from tests.engine.test_denoise import SHAPE, Listening, step_input, step_of
from tests.engine.tiny_controlnets import PICTURES, control, with_controlnets
from worker.engine.compile import compile_table
from worker.engine.costs import Costs
from worker.engine.denoise import Plan, StaticStep, StepInput
from worker.engine.graphs import WITH_SIDES, GraphMemory
from worker.engine.guidance import NO_GUIDANCE
from worker.engine.lane import Lane
from worker.engine.rows import LaneKey, LatentShape, Mode, Rows
from worker.engine.sides import AskedSide, Side
from worker.engine.table import BLOCK
from worker.families.controlnet import ControlNets
from worker.models.bundle import Bundle

CPU = torch.device("cpu")


class Denoiser(torch.nn.Module):
    """Answers with its latents, and keeps what it was called with."""

    dtype = torch.float32

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.rows: Mapping[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.rows = rows
        return x

    def in_float32(self) -> Denoiser:
        return self

    def row_bytes(self, latent_shape: LatentShape) -> float:
        return 1.0


class Factor:
    """Says of each row what it was given, times a factor. Counts the rows that it is asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked: list[int] = []
        self.is_dropped = False

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        self.asked.append(len(x))
        return {"said": rows["given"] * self.factor}

    def in_float32(self) -> Factor:
        return self


def lane_on(device: torch.device, memory: GraphMemory | None = None, mode: Mode = Mode.SHARED) -> Lane:
    key = LaneKey(Denoiser(device), SHAPE, (("context", torch.Size((1,))),), mode)
    autoencoder: Any = SimpleNamespace(in_float32=lambda: None)
    return Lane(key, autoencoder, seats=4, costs=Costs(key), graph_memory=memory)


def step_of_sample(lane: Lane, *sides: Side, guided: bool = True) -> StepInput:
    """Of a sample that takes a seat for it."""
    context = {"context": torch.zeros(1, device=lane.device)}
    seat = lane.take_seat(Rows(context, context if guided else {}), sides=sides)
    return StepInput(
        seat=seat,
        guidance=NO_GUIDANCE if guided else None,
        input_scale=1.0,
        timestep=1.0,
        block=torch.zeros(*BLOCK).numpy(),
        sides=lane.asked(sides, 0),
    )


def side(network: Factor, value: float, scale: float = 1.0, *, device: torch.device = CPU) -> Side:
    return Side(network, {"given": torch.full((1,), value, device=device)}, [scale])


def said(lane: Lane) -> list[float]:
    """What reached the rows of the last step."""
    denoiser = lane.denoiser
    assert isinstance(denoiser, Denoiser)
    return denoiser.rows["said"].flatten().tolist()


def test_answers_reach_the_rows_that_asked_and_zeros_the_others() -> None:
    lane, once, thrice = lane_on(CPU), Factor(1.0), Factor(3.0)
    inputs = [
        step_of_sample(lane, side(once, 2.0, 0.5)),
        step_of_sample(lane),
        step_of_sample(lane, side(once, 5.0), side(thrice, 7.0, 2.0), guided=False),
        step_of_sample(lane, side(thrice, 100.0, 0.0)),
    ]
    lane.take_step(inputs)
    # Conditional rows first, then the unconditional ones of the guided samples.
    assert said(lane) == [1.0, 0.0, 5.0 + 42.0, 0.0, 1.0, 0.0, 0.0]
    assert (once.asked, thrice.asked) == ([3], [1])


def test_where_nobody_asks_the_denoiser_is_called_as_without() -> None:
    lane, network = lane_on(CPU), Factor()
    lane.take_step([step_of_sample(lane, side(network, 2.0, 0.0)), step_of_sample(lane)])
    assert isinstance(lane.denoiser, Denoiser)
    assert lane.denoiser.rows.keys() == {"context"}
    assert network.asked == []


def test_who_fills_up_changes_nobody() -> None:
    """Not even if the rows that are read for it are no numbers."""
    lane, network = lane_on(CPU), Factor()
    given = step_of_sample(lane, side(network, 2.0)), step_of_sample(lane)
    lane.step.sides[network]["given"][0] = float("nan")
    plan = Plan(given, rows=6, samples=6, fill_up=lambda rows: 4)
    lane.run(plan)
    assert said(lane) == [2.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    assert network.asked == [4]


def test_a_seat_has_what_its_own_sample_was_given() -> None:
    lane, network = lane_on(CPU), Factor()
    first = step_of_sample(lane, side(network, 2.0))
    lane.leave(first.seat)
    lane.take_step([step_of_sample(lane, side(network, 3.0), guided=False)])
    assert said(lane) == [3.0]


def test_nothing_is_kept_for_a_network_that_nobody_wants_any_more() -> None:
    lane, kept, dropped = lane_on(CPU), Factor(), Factor()
    step_of_sample(lane, side(kept, 1.0), side(dropped, 1.0))
    dropped.is_dropped = True
    lane.drop_sides()
    assert lane.step.sides.keys() == {kept}


def test_a_seat_that_could_not_be_filled_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = lane_on(CPU)

    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(StaticStep, "give", full)
        for _ in range(5):
            with pytest.raises(torch.OutOfMemoryError):
                step_of_sample(lane, side(Factor(), 1.0))
    assert lane.is_empty
    assert len({step_of_sample(lane).seat for _ in range(4)}) == 4


def test_a_rescue_copies_each_of_its_networks_once() -> None:
    class Copied(Factor):
        copies = 0

        def in_float32(self) -> Factor:
            self.copies += 1
            return Factor(self.factor)

    network, lane = Copied(3.0), lane_on(CPU, mode=Mode.RESCUE)
    given = side(network, 2.0)
    lane.take_seat(Rows({"context": torch.zeros(1)}), sides=[given])
    asked = [lane.asked([given], 0)[0].network for _ in range(3)]
    assert (network.copies, len({*asked})) == (1, 1)
    assert network not in asked


class Captured:
    """A lane of a CUDA device that is not there, with captured steps."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.lane = lane_on(cuda.device, GraphMemory(cuda.device))

    def step(self, *asked: tuple[Factor, ...]) -> str:
        """One sample for each of the tuples, all at once: whether the step was `captured`, then or before, or
        `launched` kernel by kernel. The first is replayed once more, to see that it does something."""
        self.cuda.diary = []
        given = [
            step_of_sample(self.lane, *(side(each, 1.0, device=self.cuda.device) for each in own)) for own in asked
        ]
        self.lane.take_step(given)
        for each in given:
            self.lane.leave(each.seat)
        captures = sum(isinstance(entry, Made) and entry.kind == "capture" for entry in self.cuda.diary)
        replays = sum(isinstance(entry, Launch) for entry in self.cuda.diary)
        return {(1, True): "captured now", (0, True): "captured", (0, False): "launched"}[captures, replays > 0]


def test_a_step_is_captured_for_each_number_of_rows_that_ask() -> None:
    cuda, a, b = FakeCuda(1), Factor(), Factor()
    with cuda.in_place(), cuda.computing(), torch.inference_mode():
        captured = Captured(cuda)
        said = [captured.step((), ()), captured.step((a,), ()), captured.step((), (a,)), captured.step((a,), (a,))]
        assert said == ["captured now", "captured now", "captured", "captured now"]
        assert captured.step((a,), (b,)) == "captured now"
        assert captured.step((), ()) == "captured"
        a.is_dropped = True
        captured.lane.drop_sides()
        assert captured.step((), ()) == "captured"
        a.is_dropped = False
        assert captured.step((a,), ()) == "captured now", "its memory may be another's by then"


def test_so_many_ways_to_ask_are_captured_and_more_are_launched() -> None:
    cuda, networks = FakeCuda(1), [Factor() for _ in range(WITH_SIDES)]
    with cuda.in_place(), cuda.computing(), torch.inference_mode():
        captured = Captured(cuda)
        assert {captured.step((network,)) for network in networks} == {"captured now"}
        assert captured.step((Factor(),)) == "launched"
        assert captured.step((networks[0],)) == "captured"
        assert captured.step(()) == "captured now"


class Noting(TorchDispatchMode):
    """Names of torch's operations behind the next launch; questions about tensors are none."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.behind: list[str] = []
        self._cuda, self._before = cuda, cuda.launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._cuda.launches > self._before and func.namespace == "aten":
            self.behind.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_behind_a_replay_nothing_is_allocated() -> None:
    """Out of memory there, the step would be taken for one that failed, and be repeated on samples that have moved."""
    cuda = FakeCuda(1)
    with cuda.in_place(), cuda.computing(), torch.inference_mode():
        captured = Captured(cuda)
        assert captured.step(()) == "captured now"
        given = step_of_sample(captured.lane)
        with Noting(cuda) as noting:
            captured.lane.take_step([given])
    assert noting.behind == ["copy_", "copy_"], "flags out of the graph, and to the host"


def arguments(bundle: Bundle, folder: Path) -> tuple[StaticStep, tuple[Any, ...]]:
    """A step of a tiny model in which one of two samples asks two ControlNets."""
    bundle = with_controlnets(bundle, folder)
    controlnets, request = ControlNets(bundle), wish(control=(control(), control("other")), pictures=PICTURES)
    opened = controlnets.bring(request)
    assert opened is not None
    opened.result(timeout=100)
    step = step_of(bundle.unet)
    with torch.no_grad():
        sides = controlnets.sides(request, 1)
        for each in sides:
            step.give(1, each.network, each.given)
    asked = [AskedSide(each.network, step.sides[each.network], 0.5) for each in sides]
    table = compile_table(diffusers.EulerAncestralDiscreteScheduler(), 5)
    first = step_input(table, 1)
    inputs = [
        StepInput(
            seat=first.seat, guidance=first.guidance, input_scale=first.input_scale, timestep=first.timestep,
            block=first.block, sides=asked,
        ),
        step_input(table, 2, guidance=1.0),
    ]  # fmt: skip
    plan = Plan(inputs, rows=4, samples=4, fill_up=lambda rows: 4)
    return step, (*plan.on(CPU), plan.used, plan.sides_on(CPU))


def test_with_controlnets_the_step_is_one_graph_and_never_waits(epsilon_bundle: Bundle, tmp_path: Path) -> None:
    step, given = arguments(epsilon_bundle, tmp_path)
    with torch.no_grad(), Listening() as listening:
        step(*given)
    assert listening.operations > 100
    assert listening.heard == []
    with torch.no_grad():
        explanation = torch._dynamo.explain(step)(*given)
    torch._dynamo.reset()
    assert (explanation.graph_count, explanation.graph_break_count) == (1, 0), explanation.break_reasons


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_with_sides_is_the_step() -> None:
    device = torch.device("cuda")
    eager, captured = lane_on(device), lane_on(device, GraphMemory(device))
    network = Factor(2.0)
    for lane in (eager, captured):
        given = [step_of_sample(lane, side(network, 3.0, 0.5, device=device)), step_of_sample(lane)]
        for _ in range(2):
            lane.take_step(given)
        assert said(lane)[:4] == [3.0, 0.0, 3.0, 0.0]
