"""The solver compiler: a table is the stock scheduler, at every option it has, or there is no table."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from app.contract.messages.schedulers import SCHEDULERS
from tests.engine.driving import distance, ends_in_numbers
from tests.waiting import until
from worker.engine.compile import NotAffine, compile_table, residual
from worker.engine.errors import GenerationFailed
from worker.engine.solver import ObjectSolver, Schedule, SolverFactory, TableSolver
from worker.engine.solvers import Solvers
from worker.engine.stepping import at_steps
from worker.engine.table import BLOCK, CONDITIONAL, ESTIMATE, NOISE, UNCONDITIONAL, Table
from worker.families.schedulers import NamedSchedulers
from worker.models.pipelines import STABLE_DIFFUSION
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import configured, for_name, step_options

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "v_prediction")


def compiled(scheduler: Any, steps: int, **options: float) -> Table:
    """With its distance from the stock scheduler checked once more, tighter than the compiler does."""
    table = compile_table(scheduler, steps, options)
    assert residual(table, at_steps(scheduler, steps), options) < 5e-5
    return table


def taken(scheduler: Any, name: str) -> dict[str, float]:
    return step_options(name) if "eta" in scheduler.step.__code__.co_varnames else {}


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_short_name_compiles(name: str, prediction_type: str) -> None:
    with quiet_libraries():
        model_scheduler = diffusers.DDIMScheduler(**BETAS, prediction_type=prediction_type)
        scheduler = for_name(configured(model_scheduler, STABLE_DIFFUSION), name)
        for steps in (1, 4, 13):
            compiled(scheduler, steps, **taken(scheduler, name))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "cls",
    [
        diffusers.DDIMScheduler,
        diffusers.DDPMScheduler,
        diffusers.EulerDiscreteScheduler,
        diffusers.EulerAncestralDiscreteScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
        diffusers.LCMScheduler,
        diffusers.TCDScheduler,
    ],
)
def test_every_spacing_and_zero_terminal_snr(
    cls: Any, spacing: str, zero_terminal_snr: bool, prediction_type: str
) -> None:
    scheduler = cls.from_config(
        {
            **BETAS,
            "prediction_type": prediction_type,
            "timestep_spacing": spacing,
            "rescale_betas_zero_snr": zero_terminal_snr,
            "clip_sample": False,
        }
    )
    if zero_terminal_snr and prediction_type == "epsilon" and not has_numbers(scheduler):
        # Epsilon says nothing about a timestep without signal: the stock scheduler divides by zero there.
        with pytest.raises(NotAffine, match="nan"):
            compile_table(scheduler, 7, taken(scheduler, "ddim"))
    else:
        compiled(scheduler, 7, **taken(scheduler, "ddim"))


def has_numbers(scheduler: Any) -> bool:
    """Does the stock scheduler's first step end in numbers?"""
    stock, x = at_steps(scheduler, 7), torch.ones(1, 4, 4, 4)
    stock.scale_model_input(x, stock.timesteps[0])
    return bool(stock.step(x, stock.timesteps[0], x).prev_sample.isfinite().all())


@pytest.mark.parametrize(
    ("scheduler", "steps", "registers", "evaluations", "draws"),
    [
        (diffusers.DDIMScheduler(clip_sample=False), 5, 1, 5, 0),
        (diffusers.EulerAncestralDiscreteScheduler(), 5, 1, 5, 5),
        (diffusers.DDPMScheduler(clip_sample=False), 5, 1, 5, 4),
        (diffusers.LCMScheduler(), 5, 1, 5, 4),
        (diffusers.DPMSolverMultistepScheduler(), 8, 2, 8, 0),
        (diffusers.HeunDiscreteScheduler(), 5, 3, 9, 0),
        (diffusers.UniPCMultistepScheduler(), 8, 4, 8, 0),
        (diffusers.PNDMScheduler(skip_prk_steps=True), 8, 4, 9, 0),
        (diffusers.PNDMScheduler(), 8, 6, 17, 0),
        (diffusers.IPNDMScheduler(), 20, 4, 20, 0),
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 8, 1, 8, 0),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else str(value),
)
def test_as_many_registers_as_the_solver_has_memory(
    scheduler: Any, steps: int, registers: int, evaluations: int, draws: int
) -> None:
    table = compiled(scheduler, steps, **taken(scheduler, "ddim"))
    assert (table.registers, table.evaluations, sum(table.draws)) == (registers, evaluations, draws)


def test_eta_is_an_option_of_the_step() -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    assert sum(compiled(scheduler, 6, eta=1.0).draws) == 6
    assert sum(compiled(scheduler, 6, eta=0.0).draws) == 0


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(clip_sample=True),
        diffusers.DPMSolverMultistepScheduler(thresholding=True),
        diffusers.UnCLIPScheduler(),
    ],
)
def test_what_clips_is_no_table(scheduler: Any) -> None:
    with pytest.raises(NotAffine, match="off by"):
        compile_table(scheduler, 5)


class ClipsFarOut(diffusers.EulerDiscreteScheduler):
    """What no model ever answers in a check with numbers around one."""

    def step(self, model_output: Any, *args: Any, **kwargs: Any) -> Any:
        return super().step(model_output.clamp(-10, 10), *args, **kwargs)


def test_a_clamp_far_out_is_seen() -> None:
    with pytest.raises(NotAffine, match="off by"):
        compile_table(ClipsFarOut(), 5)


def test_an_option_that_the_step_never_reads_costs_nothing() -> None:
    """TCD has clip_sample in its configuration, and a step that does not look at it."""
    compiled(diffusers.TCDScheduler(**BETAS, clip_sample=True, thresholding=True), 5, eta=0.0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_zero_terminal_snr_at_many_steps(name: str) -> None:
    """With Karras sigmas the first timestep stands there twice; begun at the second, the last step is one too many."""
    with quiet_libraries():
        scheduler = for_name(zero_snr(), name)
        if name in ("lcm", "tcd"):
            compiled(scheduler, 30, **taken(scheduler, name))
            return
        compiled(scheduler, steps_to(52, numbers=True) if name == "ddim_eta1" else 52, **taken(scheduler, name))


def steps_to(least: int, *, numbers: bool) -> int:
    """At least so many steps of DDIM with eta 1 that end in numbers, or in NaN: it takes the root of a negative
    rounding error, at one number of steps in three, and at which differs from one processor to another."""
    scheduler = for_name(zero_snr(), "ddim_eta1")
    return next(steps for steps in range(least, 100) if ends_in_numbers(scheduler, steps, eta=1.0) is numbers)


def zero_snr(**options: Any) -> Any:
    """A model's scheduler as those with v-prediction and zero terminal SNR have it (Lin et al. 2023)."""
    own = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return configured(diffusers.DDIMScheduler(**BETAS | own | options), STABLE_DIFFUSION)


class Bent(diffusers.EulerDiscreteScheduler):
    """Looks affine to basis vectors of ones and zeros, and is not."""

    def step(self, model_output: torch.Tensor, *args: Any, **options: Any) -> Any:
        return super().step(model_output * model_output.abs(), *args, **options)


def test_the_table_is_checked_against_the_scheduler() -> None:
    with pytest.raises(NotAffine, match="off by"):
        compile_table(Bent(), 5)


def test_compiling_changes_neither_the_scheduler_nor_the_noise_of_other_threads() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    before = dict(vars(scheduler))
    noise: list[torch.Tensor] = []
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            noise.append(torch.randn(3, generator=torch.Generator().manual_seed(1)))

    other = threading.Thread(target=draw)
    other.start()
    until(lambda: noise)
    compile_table(scheduler, 60)
    over.set()
    other.join()
    assert all(torch.equal(each, noise[0]) for each in noise)
    assert vars(scheduler).keys() == before.keys()
    assert all(vars(scheduler)[name] is value for name, value in before.items())


def test_guidance_folds_into_the_block() -> None:
    table = compile_table(diffusers.EulerDiscreteScheduler(), 4)
    plain, guided = table.block(1, 1.0), table.block(1, 7.5)
    assert np.all(plain[:, UNCONDITIONAL] == 0)
    np.testing.assert_allclose(guided[:, CONDITIONAL], 7.5 * plain[:, CONDITIONAL])
    np.testing.assert_allclose(guided[:, UNCONDITIONAL], -6.5 * plain[:, CONDITIONAL])
    assert np.all(guided[:, NOISE] == 0)


@pytest.mark.parametrize("cls", [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler])
@pytest.mark.parametrize("prediction_type", [*PREDICTIONS, "sample"])
def test_the_estimate_is_the_stock_schedulers(cls: Any, prediction_type: str) -> None:
    scheduler = cls.from_config({**BETAS, "prediction_type": prediction_type, "clip_sample": False})
    table = compile_table(scheduler, 6, taken(scheduler, "ddim"))
    stock = at_steps(scheduler, 6)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 4, 4, generator=generator) * table.init_noise_sigma
    for i, t in enumerate(stock.timesteps):
        m = torch.randn(x.shape, generator=generator)
        stock.scale_model_input(x, t)
        block = table.block(i, 1.0)
        ours = block[ESTIMATE, 0] * x + block[ESTIMATE, CONDITIONAL] * m
        answer = stock.step(m, t, x)
        assert distance(ours, answer.pred_original_sample) < 1e-4
        x = answer.prev_sample


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (diffusers.DPMSolverMultistepScheduler, {"use_flow_sigmas": True}),
        (diffusers.DPMSolverSinglestepScheduler, {"use_flow_sigmas": True}),
        (diffusers.UniPCMultistepScheduler, {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 80.0}),
        (diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 80.0}),
        (diffusers.EulerDiscreteScheduler, {"interpolation_type": "log_linear"}),
        (diffusers.EulerDiscreteScheduler, {"timestep_type": "continuous"}),
    ],
)
def test_the_estimate_follows_the_sigmas(cls: Any, options: dict[str, Any], prediction_type: str) -> None:
    """Stock says what x0 is: the Euler ones beside the sample, the others where they convert the model's output."""
    scheduler = cls.from_config({**BETAS, "prediction_type": prediction_type, **options})
    table, stock = compile_table(scheduler, 6), at_steps(scheduler, 6)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 4, 4, generator=generator) * table.init_noise_sigma
    for i, t in enumerate(stock.timesteps):
        m = torch.randn(x.shape, generator=generator)
        stock.scale_model_input(x, t)
        block = table.block(i, 1.0)
        if stock.step_index is None:
            stock._init_step_index(t)
        expected = stock.convert_model_output(m, sample=x) if hasattr(stock, "convert_model_output") else None
        answer = stock.step(m, t, x)
        expected = answer.pred_original_sample if expected is None else expected
        ours = block[ESTIMATE, 0] * x + block[ESTIMATE, CONDITIONAL] * m
        if table.estimates[i, 1] > -900:  # Where nothing but noise is left, epsilon says nothing of x0.
            assert distance(ours, expected) < 0.02
        x = answer.prev_sample


class Unhurried:
    """An executor that runs what it was given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def submit(self, call: Any, *arguments: Any) -> None:
        self.waiting.append((call, arguments))

    def go_on(self) -> None:
        while self.waiting:
            call, arguments = self.waiting.pop(0)
            call(*arguments)


def schedulers(model_scheduler: Any) -> NamedSchedulers:
    return NamedSchedulers(model_scheduler, channels=4)


def factory(model_scheduler: Any, name: str, steps: int) -> SolverFactory:
    return Solvers().factory(schedulers(model_scheduler).schedule(name, steps)).result()


def test_one_table_for_all_who_want_the_same() -> None:
    executor = Unhurried()
    solvers, named = Solvers(executor), schedulers(diffusers.DDIMScheduler(**BETAS))  # type: ignore[arg-type]
    first, again, other = (solvers.factory(named.schedule("euler", steps)) for steps in (5, 5, 6))
    assert first is again
    assert first is not other
    assert len(executor.waiting) == 2
    executor.go_on()
    assert first.result().solver().table is first.result().solver().table


def test_what_is_not_affine_is_stepped_as_an_object() -> None:
    clipping = diffusers.DDIMScheduler(**BETAS, thresholding=True)
    objects, table = factory(clipping, "ddim", 5), factory(clipping, "euler", 5)
    assert (objects.evaluations, table.evaluations) == (5, 5)
    assert isinstance(objects.solver(), ObjectSolver)
    assert isinstance(table.solver(), TableSolver)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(**BETAS, thresholding=True),
        diffusers.DDPMScheduler(**BETAS, clip_sample=True),
        diffusers.DPMSolverMultistepScheduler(**BETAS, thresholding=True),
        diffusers.UniPCMultistepScheduler(**BETAS, thresholding=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_an_object_is_stepped_without_a_question_to_the_device(scheduler: Any) -> None:
    """On a device whose values nobody can read: its timesteps are not there, nor is anything else that is asked."""
    given = Schedule(name="own", scheduler=scheduler, num_inference_steps=5, options={"eta": 1.0}, channels=4)
    solver, chance = SolverFactory(given).solver(), torch.Generator()
    assert isinstance(solver, ObjectSolver)
    registers = torch.zeros(BLOCK[0], 4, 8, 8, device="meta")
    solver.begin(registers, torch.zeros(4, 8, 8, device="meta"))
    for i in range(solver.table.evaluations):
        solver.after_step(registers, i, chance)
    assert solver.latents(registers).device.type == "meta"


@pytest.mark.parametrize(
    ("name", "steps", "words"), [("warp", 5, "unknown"), ("lcm", 51, "lcm cannot take 51 steps .* 49 or 50 will do")]
)
def test_a_solver_that_cannot_be_says_so(name: str, steps: int, words: str) -> None:
    with pytest.raises(GenerationFailed, match=words):
        factory(diffusers.DDIMScheduler(), name, steps)


@pytest.mark.parametrize("name", ["dpmpp_sde_karras", "ddim_eta1", "pndm"])
def test_a_solver_says_what_it_is_made_of(name: str) -> None:
    """As strict JSON has it: some of diffusers' defaults are infinite."""
    described = factory(diffusers.DDIMScheduler(**BETAS), name, 4).description
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert (described["class"], described["beta_end"]) == (SCHEDULERS[name].cls, BETAS["beta_end"])
    assert described.get("use_karras_sigmas", False) is (name == "dpmpp_sde_karras")
    assert described.get("eta") == {"ddim_eta1": 1.0}.get(name)


def test_what_ends_in_nan_is_refused_before_it_is_drawn_and_the_advice_is_good() -> None:
    with quiet_libraries():
        steps = steps_to(16, numbers=False)
        with pytest.raises(
            GenerationFailed, match=rf"ddim_eta1 cannot take {steps} steps with this model \(.*NaN\); (\d+) or"
        ) as no:
            factory(zero_snr(), "ddim_eta1", steps)
        for other in re.findall(r"(\d+)(?= or | will do)", str(no.value)):
            assert isinstance(factory(zero_snr(), "ddim_eta1", int(other)).solver(), TableSolver)


class Falls(diffusers.DDIMScheduler):
    """Clips, so that it has to be stepped as an object, and raises at its last step."""

    def step(self, model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        if timestep == self.timesteps[-1]:
            raise IndexError("one too many")
        return super().step(model_output, timestep, *args, **kwargs)


def test_an_object_that_would_fail_at_its_last_step_is_never_stepped_for_a_picture() -> None:
    with pytest.raises(IndexError, match="one too many"):
        SolverFactory(
            Schedule(name="falls", scheduler=Falls(clip_sample=True), num_inference_steps=5, options={}, channels=4)
        )


def test_a_solver_does_not_speak_of_options_that_its_class_has_no_use_for() -> None:
    """They travel along in the configuration: Euler a has no Karras sigmas."""
    karras = diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True)
    described = factory(karras, "EulerAncestralDiscreteScheduler", 4).description
    assert "use_karras_sigmas" not in described
