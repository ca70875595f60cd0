"""The denoising step by itself: one graph, no question to the host, and numbers that no global switch can bend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.driving import distance
from tests.engine.tiny_models import sdxl_unet
from worker.engine.compile import compile_table
from worker.engine.denoise import Plan, StaticStep, StepInput
from worker.engine.graphs import GraphMemory, StepGraphs
from worker.engine.guidance import Guidance
from worker.engine.table import REGISTERS, Table
from worker.families.unet import UNet
from worker.models.bundle import Bundle

SHAPE = (4, 16, 16)


@pytest.fixture(scope="module")
def table() -> Table:
    return compile_table(diffusers.EulerAncestralDiscreteScheduler(), 5)


def filled(step: StaticStep) -> StaticStep:
    """Every seat taken, the empty one as well."""
    generator = torch.Generator().manual_seed(0)
    step.state[:, 0] = torch.randn(step.state[:, 0].shape, generator=generator)
    for kept in step.conditioning.values():
        kept.copy_(torch.randn(kept.shape, generator=generator))
    step.noise.copy_(torch.randn(step.noise.shape, generator=generator))
    return step


def step_of(unet: Any, *, seats: int = 4, dtype: torch.dtype = torch.float32) -> StaticStep:
    context = {"encoder_hidden_states": torch.Size((32, 32))}
    denoiser = UNet(unet, dtype=dtype, device=next(unet.parameters()).device)
    return filled(StaticStep(denoiser, seats=seats, latent_shape=SHAPE, conditioning=context))


def step_input(table: Table, seat: int, *, i: int = 1, guidance: float = 5.0) -> StepInput:
    return StepInput(
        seat=seat,
        guidance=Guidance(scale=guidance) if guidance > 1 else None,
        input_scale=float(table.input_scale[i]),
        timestep=float(table.timesteps[i]),
        block=table.block(i, guidance),
    )


def arguments(inputs: list[StepInput], *, rows: int, samples: int) -> tuple[torch.Tensor, ...]:
    return Plan(inputs, rows=rows, samples=samples).on(torch.device("cpu"))


def exact_arguments(inputs: list[StepInput], *, rows: int, samples: int) -> tuple[torch.Tensor, ...]:
    index, numbers = arguments(inputs, rows=rows, samples=samples)
    return index, numbers.double()


class Listening(TorchDispatchMode):
    """Notes every operation for which the host would have to wait for a device."""

    WAITING = frozenset({"_local_scalar_dense", "item", "nonzero", "is_nonzero", "unique", "masked_select", "equal"})

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.operations = 0
        self.last = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        self.last = func.overloadpacket.__name__
        if func.overloadpacket.__name__ in self.WAITING:
            self.heard.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_step_never_waits_for_the_device(epsilon_bundle: Bundle, table: Table) -> None:
    step = step_of(epsilon_bundle.unet)
    given = arguments([step_input(table, 1), step_input(table, 2, guidance=1.0)], rows=4, samples=4)
    with torch.no_grad(), Listening() as listening:
        step(*given)
    assert listening.operations > 100
    assert listening.heard == []


def test_filling_up_changes_nobody(epsilon_bundle: Bundle, table: Table) -> None:
    inputs = [step_input(table, 1), step_input(table, 3, guidance=1.0)]
    exact, wide = step_of(epsilon_bundle.unet), step_of(epsilon_bundle.unet)
    with torch.no_grad():
        finite = exact(*arguments(inputs, rows=3, samples=2))
        finite_too = wide(*arguments(inputs, rows=8, samples=8))
    assert finite.tolist() == [True, True]
    assert finite_too[:2].tolist() == [True, True]
    for seat in (1, 3):
        assert distance(wide.state[seat, 0], exact.state[seat, 0]) < 5e-5
    fresh = step_of(epsilon_bundle.unet)
    for seat in (2, 4):
        assert torch.equal(wide.state[seat], fresh.state[seat]), "nobody else's seat is touched"


def test_a_call_that_raises_changes_nothing(epsilon_bundle: Bundle, table: Table) -> None:
    step = step_of(epsilon_bundle.unet)
    before = step.state.clone()
    step.denoiser = Crowded()
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        step(*arguments([step_input(table, 1)], rows=2, samples=1))
    assert torch.equal(step.state, before)


def test_nothing_can_raise_once_the_state_has_moved(epsilon_bundle: Bundle, table: Table) -> None:
    """A step that raised is repeated."""
    step = step_of(epsilon_bundle.unet)
    given = arguments([step_input(table, 1)], rows=2, samples=1)
    with torch.no_grad(), Listening() as listening:
        step(*given)
    assert listening.last == "index_copy_"


class Crowded(torch.nn.Module):
    def forward(self, *args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def careless_settings() -> Iterator[None]:
    """What some other library may have switched on for the whole process."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_tf32 = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False


class Echo(torch.nn.Module):
    """A denoiser without arithmetic: only the solver's own can go wrong."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        return x.flip(1)


def solved(table: Table) -> torch.Tensor:
    step = StaticStep(
        Echo(),  # type: ignore[arg-type]
        seats=2,
        latent_shape=SHAPE,
        conditioning={"encoder_hidden_states": torch.Size((1, 1))},
    )
    filled(step)
    with torch.no_grad():
        for i in range(table.evaluations):
            step(*arguments([step_input(table, 1, i=i), step_input(table, 2, i=i, guidance=1.0)], rows=3, samples=2))
    return step.state[1:, :REGISTERS].clone()


@pytest.fixture
def undisturbed(table: Table) -> torch.Tensor:
    return solved(table)


def test_no_global_switch_bends_the_solver(undisturbed: torch.Tensor, careless_settings: None, table: Table) -> None:
    assert torch.equal(solved(table), undisturbed)


def test_one_graph_without_breaks(epsilon_bundle: Bundle, table: Table) -> None:
    step = step_of(epsilon_bundle.unet)
    given = arguments([step_input(table, 1), step_input(table, 2, guidance=1.0)], rows=4, samples=4)
    with torch.no_grad():
        explanation = torch._dynamo.explain(step)(*given)
    torch._dynamo.reset()
    assert (explanation.graph_count, explanation.graph_break_count) == (1, 0), explanation.break_reasons


def test_conditioning_beside_the_text_has_seats_as_well(table: Table) -> None:
    """SDXL's pooled text and sizes: rows of two pictures in one call, as the UNet gives them alone.

    In float64: a float32 UNet is off by up to 5e-5 in company, which depends on the processor and says nothing here.
    """
    unet = sdxl_unet().double()
    conditioning = {
        "encoder_hidden_states": torch.Size((7, 32)),
        "text_embeds": torch.Size((16,)),
        "time_ids": torch.Size((6,)),
    }
    denoiser = UNet(unet, dtype=torch.float64, device=torch.device("cpu"))
    step = filled(StaticStep(denoiser, seats=3, latent_shape=SHAPE, conditioning=conditioning))
    step.state, step.noise = step.state.double(), step.noise.double()
    before = step.state.clone()
    with torch.no_grad():
        step(*exact_arguments([step_input(table, 1), step_input(table, 3, guidance=1.0)], rows=3, samples=2))
        for seat, guidance in ((1, 5.0), (3, 1.0)):
            own = step_input(table, seat, guidance=guidance)
            rows = [0, 1] if guidance > 1 else [0]
            kept = {name: value[seat, rows] for name, value in step.conditioning.items()}
            x = before[seat, :1].repeat(len(rows), 1, 1, 1)
            context = kept.pop("encoder_hidden_states")
            c, *u = unet(x * own.input_scale, own.timestep, context, added_cond_kwargs=kept)[0]
            m = u[0] + guidance * (c - u[0]) if u else c
            matrix = torch.from_numpy(table.matrices[1][0])
            expected = matrix[0] * before[seat, 0] + matrix[1] * m + matrix[2] * step.noise[seat]
            assert distance(step.state[seat, 0], expected) < 1e-5, "what is left is the float32 of the UNet's output"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_captured_step_is_the_step(epsilon_bundle: Bundle, table: Table, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    unet = diffusers.UNet2DConditionModel.from_config(epsilon_bundle.unet.config)
    unet.load_state_dict(epsilon_bundle.unet.state_dict())
    unet.to(device, dtype).eval()
    eager, captured = step_of(unet, dtype=dtype), step_of(unet, dtype=dtype)
    graphs = StepGraphs(captured, GraphMemory(device), strict=True)
    with torch.inference_mode():
        for i in range(table.evaluations):
            inputs = [step_input(table, 1, i=i), step_input(table, 2, i=i, guidance=1.0)]
            given = Plan(inputs, rows=4, samples=4).on(device)
            assert graphs(*given)[:2].tolist() == eager(*given)[:2].tolist() == [True, True]
    assert distance(captured.state[1:3, 0], eager.state[1:3, 0]) < (1e-5 if dtype == torch.float32 else 1e-2)
