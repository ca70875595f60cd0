"""The solver compiler: any stock diffusers scheduler becomes a table, without one formula being written again.

A copy of the scheduler is stepped on basis vectors instead of pictures: its sample is e0, the model's output e1, fresh
noise e2, and every tensor that it keeps between steps becomes a basis vector of its own before the next one. What comes
back is the row of coefficients. So each option of each scheduler (spacing, Karras sigmas, v-prediction, zero terminal
SNR, ...) is honoured by its own code. Then liveness analysis finds out what of that memory is read again, registers are
allocated for it, and the table is replayed beside the stock scheduler with a model that is anything but linear.

Knows diffusers' scheduler interface. Knows nothing of requests or batches, and may run in any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch
from torch.overrides import TorchFunctionMode

from worker.engine.estimate import x0_coefficients
from worker.engine.stepping import FROM_NOISE, Beginning, arguments, at_steps, evaluated, scaled
from worker.engine.table import REGISTERS, Numbers, Table

log = structlog.get_logger()

Name = tuple[str, int | None]
"""A tensor that the scheduler keeps: attribute, and place in it if that is a list."""

Row = dict[Name, float]
"""A value as a sum of the inputs of a step."""

X: Name = ("the sample", None)
M: Name = ("the model's output", None)
Z: Name = ("noise", None)

TOLERANCE = 1e-3
"""Of the greatest value. A right table stays below 1e-5, or at some 1e-4 where Euler begins at zero signal, with sigma
4096: how far, depends on the processor. One that missed a clipping or a bend is off by tenths, or by whole units."""


AMPLITUDES = (1.0, 100.0)
"""Of the latents and the model's output while a table is checked. What clips far out shows at the second one only; what
bends near zero would vanish there."""


class NotAffine(Exception):
    """The scheduler does something that no matrix can, such as clipping. Step the object itself."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One step, probed: what each value after it is made of. `noised`: see Table, before the step."""

    rows: Mapping[Name, Row]
    input_scale: float
    draws: bool
    noised: tuple[float, float] | None


class _NoiseIs(TorchFunctionMode):
    """Whoever draws noise in this thread gets `value`. Counts the draws. Other threads keep their own noise."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self._value = value
        self.draws = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.randn, torch.randn_like):
            self.draws += 1
            like = args[0].dtype if func is torch.randn_like else torch.get_default_dtype()
            return self._value.to((kwargs or {}).get("dtype") or like)
        return func(*args, **(kwargs or {}))


def compile_table(
    scheduler: Any,
    num_inference_steps: int,
    options: Mapping[str, Any] | None = None,
    *,
    beginning: Beginning = FROM_NOISE,
) -> Table:
    """`scheduler` at `num_inference_steps`, stepped with `options` such as eta. The scheduler itself stays as it is.
    Multistep solvers know nothing of what was before their `beginning`, and start at a low order there.

    Raises NotAffine where it cannot be a table, and what set_timesteps raises for a number of steps it cannot take.
    """
    options = options or {}
    prepared = at_steps(scheduler, num_inference_steps, beginning=beginning)
    try:
        probes = list(_probe(at_steps(scheduler, num_inference_steps, beginning=beginning), options, beginning))
    except NotAffine:
        raise
    except Exception as error:
        # Whatever a scheduler makes of such a sample; with a real one it may be perfectly well.
        raise NotAffine(f"it cannot be probed: {error!r}") from error
    timesteps = evaluated(prepared, beginning).double().numpy().astype(np.float32)
    input_scale = np.array([probe.input_scale for probe in probes], np.float32)
    table = Table(
        matrices=_allocate(probes),
        estimates=x0_coefficients(prepared, timesteps, input_scale, begin_index=beginning.index),
        input_scale=input_scale,
        timesteps=timesteps,
        draws=tuple(probe.draws for probe in probes),
        init_noise_sigma=float(getattr(prepared, "init_noise_sigma", 1.0)),
        noised=_noise_levels(probes),
    )
    for amplitude in AMPLITUDES:
        fresh = at_steps(scheduler, num_inference_steps, beginning=beginning)
        off_by = residual(table, fresh, options, beginning=beginning, amplitude=amplitude)
        if not off_by <= TOLERANCE:
            raise NotAffine(f"its table is off by {off_by:.1e}")
    return table


def _probe(scheduler: Any, options: Mapping[str, Any], beginning: Beginning) -> Iterator[Probe]:
    """Step the scheduler to its end on basis vectors."""
    shape: torch.Size | None = None
    for i, t in enumerate(evaluated(scheduler, beginning)):
        noised = _noised(scheduler, t)
        kept = {} if shape is None else _tensors_of(scheduler, shape)
        inputs = [X, M, Z, *kept]
        basis = torch.eye(len(inputs), dtype=torch.float64)[:, None, :, None, None]
        placed = dict(zip(inputs, basis, strict=True))
        for name in kept:
            _replace(scheduler, name, placed[name])
        shape = placed[X].shape
        scale = float(scaled(scheduler, placed[X], t).flatten()[0])
        with _NoiseIs(placed[Z]) as noise:
            x = scheduler.step(placed[M], t, placed[X], **arguments(scheduler, options, beginning.index + i))[0]
        if noise.draws > 1:
            raise NotAffine("it draws noise more than once in a step")
        after = {X: x, **_tensors_of(scheduler, shape)}
        yield Probe({name: _row(value, inputs) for name, value in after.items()}, scale, noise.draws == 1, noised)


def _noised(scheduler: Any, t: torch.Tensor) -> tuple[float, float] | None:
    """How a picture's latents and noise are added up where the scheduler stands; None where it does not do that."""
    picture, noise = torch.eye(2, dtype=torch.float64)[:, None, :, None, None]
    try:
        a, s = scheduler.add_noise(picture, noise, t.reshape(1)).flatten().tolist()
    except Exception as reason:
        log.debug("a scheduler adds no noise to pictures", scheduler=type(scheduler).__name__, reason=repr(reason))
        return None
    return a, s


def _noise_levels(probes: Sequence[Probe]) -> Numbers | None:
    """[T + 1, 2], with nothing added after the last step."""
    levels = [probe.noised for probe in probes if probe.noised is not None]
    return np.array([*levels, (1, 0)], np.float32) if len(levels) == len(probes) else None


def _row(value: torch.Tensor, inputs: Sequence[Name]) -> Row:
    coefficients = value.double().flatten().tolist()
    return {name: c for name, c in zip(inputs, coefficients, strict=True) if c != 0}


def _tensors_of(scheduler: Any, shape: torch.Size) -> dict[Name, torch.Tensor]:
    """What the scheduler keeps of pictures: tensors of their shape among its attributes, alone or in lists."""
    found: dict[Name, torch.Tensor] = {}
    for attribute, value in vars(scheduler).items():
        entries = [(i, entry) for i, entry in enumerate(value)] if isinstance(value, list) else [(None, value)]
        for i, entry in entries:
            if isinstance(entry, torch.Tensor) and entry.shape == shape:
                found[attribute, i] = entry
    return found


def _replace(scheduler: Any, name: Name, value: torch.Tensor) -> None:
    attribute, i = name
    if i is None:
        setattr(scheduler, attribute, value)
    else:
        getattr(scheduler, attribute)[i] = value


def _allocate(probes: Sequence[Probe]) -> Numbers:
    """Matrices [T, R, R + 2] over as few registers as hold all that is read again. Raises NotAffine above REGISTERS."""
    live = _live(probes)
    count = max(map(len, live))
    if count > REGISTERS:
        raise NotAffine(f"it remembers {count} pictures")
    matrices = np.zeros((len(probes), count, count + 2), np.float32)
    for probe, matrix, before, after in zip(probes, matrices, live[:-1], live[1:], strict=True):
        column = {name: i for i, name in enumerate(before)} | {M: count, Z: count + 1}
        for register, name in enumerate(after):
            for source, coefficient in probe.rows[name].items():
                matrix[register, column[source]] = coefficient
    return matrices


def _live(probes: Sequence[Probe]) -> list[list[Name]]:
    """Before each step and after the last one: what a later step still reads. The latents always, and first."""
    live = [[X]]
    for probe in reversed(probes):
        read = {source for name in live[0] for source in probe.rows[name]}
        live.insert(0, [X, *sorted(read - {X, M, Z}, key=str)])
    return live


def residual(
    table: Table,
    scheduler: Any,
    options: Mapping[str, Any],
    *,
    beginning: Beginning = FROM_NOISE,
    amplitude: float = 1.0,
) -> float:
    """Greatest difference between table and scheduler, over the greatest value, after all steps of a bent model.

    `scheduler` must be fresh from at_steps; it is used up. `amplitude` enlarges latents and model output alike.
    """
    start, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    loud = table.init_noise_sigma * amplitude
    x = torch.randn(PICTURE, generator=start) * loud
    registers = torch.zeros(table.registers, x.numel())
    registers[0] = torch.randn(PICTURE, generator=noise).flatten() * loud
    for i, t in enumerate(evaluated(scheduler, beginning)):
        m = _bent_model(scaled(scheduler, x, t), float(t), amplitude)
        x = scheduler.step(m, t, x, **arguments(scheduler, options, beginning.index + i, start))[0]
        seen = (registers[0] * float(table.input_scale[i])).view(PICTURE)
        m = _bent_model(seen, float(table.timesteps[i]), amplitude)
        z = torch.randn(PICTURE, generator=noise) if table.draws[i] else torch.zeros(PICTURE)
        registers = torch.from_numpy(table.matrices[i]) @ torch.cat([registers, m.view(1, -1), z.view(1, -1)])
    return float((registers[0] - x.flatten()).abs().max() / x.abs().max())


PICTURE = (1, 4, 4, 4)


def _bent_model(x: torch.Tensor, t: float, amplitude: float) -> torch.Tensor:
    """A model in which every value depends on others, on itself in a curve, and on the timestep."""
    x = x / amplitude
    bent = torch.tanh(x + 0.7 * x.roll(1, -1) - 0.4 * x.roll(1, 1)) * 1.5 + 0.1 * float(np.sin(t / 50))
    return bent * amplitude
