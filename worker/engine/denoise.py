"""The denoising step: one call of the denoiser and one update of every solver, for samples of one lane.

All that changes between two steps comes in as numbers; all that stays is in buffers with a seat for each sample. So the
step has a fixed shape for a number of rows, asks nothing back from the device, and can be captured whole as a graph.
Seat 0 is nobody's: rows that only fill a batch up read from it and write to it.
Knows no requests and no schedulers. Changes nothing if the denoiser raises, so that it may be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from worker.engine.compiled import CompiledDenoiser
from worker.engine.deep import Depth, deep_shape, evaluate
from worker.engine.guidance import Guidance, rescaling
from worker.engine.keep import Keep, noised
from worker.engine.rows import Denoiser, LatentShape, Rows
from worker.engine.sides import NOBODY, AskedSide, SideNetwork, SideRows, answers, side_rows
from worker.engine.table import BLOCK, NOISE, REGISTERS, UNCONDITIONAL, VARIANCE, Numbers
from worker.engine.transfer import to_device, to_host
from worker.engine.update import ALL_OF_IT, Update, combine

Used = tuple[tuple[str, int], ...]
"""Of what only some rows have, by name: as much as the row with the most. Empty where no row of the step has any."""


class StaticStep(torch.nn.Module):
    """Buffers of one lane, and the step over them.

    `state` is float32 [seats + 1, registers + x0, C, h, w], whatever the model's own type: solvers lose up to 6 % of
    the standard deviation in bfloat16. `conditioning` holds, by the denoiser's names for them, [seats + 1, 2, ...]:
    conditional at 0, unconditional at 1, and so does `deep` what is kept of the denoiser's inner layers, once a sample
    wants that. `some` holds what both rows of some samples have, [seats + 1, most, ...];
    `sides` what was given to each side network, by its names, [seats + 1, ...].
    `noise` is float32 [seats + 1, C, h, w], what the solver of each adds, which may come while the step before is still
    computed. `stays` is float32 [seats + 1, 2, C, h, w], a picture's latents and noise, which take their place wherever
    `repainted`, bool [seats + 1, 1, h, w], is not true: nowhere for who keeps nothing. `compiled` is the same denoiser,
    compiled for some steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        seats: int,
        latent_shape: LatentShape,
        conditioning: Mapping[str, torch.Size],
        compiled: CompiledDenoiser | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._compiled = compiled
        self.state = torch.zeros(seats + 1, BLOCK[0], *latent_shape, device=denoiser.device)
        self.conditioning = {
            name: torch.zeros(seats + 1, 2, *shape, dtype=denoiser.dtype, device=denoiser.device)
            for name, shape in conditioning.items()
        }
        self.some: dict[str, torch.Tensor] = {}
        self.deep: torch.Tensor | None = None
        self.sides: dict[SideNetwork, dict[str, torch.Tensor]] = {}
        self.noise = torch.zeros(seats + 1, *latent_shape, device=denoiser.device)
        self.stays = torch.zeros(seats + 1, 2, *latent_shape, device=denoiser.device)
        self.repainted = torch.ones(seats + 1, 1, *latent_shape[1:], dtype=torch.bool, device=denoiser.device)

    def keep(self, seat: int, rows: Rows, picture: Keep | None = None) -> None:
        """What is on that seat from now on."""
        for name, kept in self.conditioning.items():
            kept[seat, 0] = rows.conditional[name]
            kept[seat, 1] = rows.unconditional.get(name, 0)
        for kept in self.some.values():
            kept[seat] = 0
        for name, given in rows.some.items():
            if name not in self.some:
                self.some[name] = given.values.new_zeros(len(self.state), *given.values.shape)
            self.some[name][seat] = given.values
        self.repainted[seat] = True if picture is None else picture.repainted
        if picture is not None:
            self.stays[seat, 0], self.stays[seat, 1] = picture.latents, picture.noise

    def make_deep(self) -> None:
        """A place for each row's deep features. They are written before they are read."""
        if self.deep is None:
            dtype, device = self.denoiser.dtype, self.denoiser.device
            self.deep = torch.zeros(2 * len(self.state), *self._deep_shape, dtype=dtype, device=device)

    @property
    def deep_bytes(self) -> int:
        """That these places take, once somebody wants one; 0 where nobody can."""
        return 2 * len(self.state) * math.prod(self._deep_shape) * self.denoiser.dtype.itemsize

    @property
    def _deep_shape(self) -> LatentShape:
        _, _, c, h, w = self.state.shape
        return deep_shape(self.denoiser, (c, h, w))

    def give(self, seat: int, network: SideNetwork, given: Mapping[str, torch.Tensor]) -> None:
        """Keep what a side network is given for the sample in that seat."""
        if network not in self.sides:
            seats, like = len(self.state), {"dtype": self.denoiser.dtype, "device": self.denoiser.device}
            self.sides[network] = {name: torch.zeros(seats, *each.shape, **like) for name, each in given.items()}
        for name, kept in self.sides[network].items():
            kept[seat] = given[name]

    def forward(
        self,
        index: torch.Tensor,
        numbers: torch.Tensor,
        used: Used = (),
        sides: Sequence[SideRows] = (),
        depth: Depth = Depth.WHOLE,
        update: Update = ALL_OF_IT,
    ) -> torch.Tensor:
        """Take the step that a plan describes (see `Plan`). Whether each sample is finite, bool [samples]."""
        rows, samples = sizes(index, numbers)
        row_seat, row_context, seat, conditional, unconditional = index.split([rows, rows, samples, samples, samples])
        parts = [rows, rows, samples, samples, samples, samples, samples * BLOCK[0] * BLOCK[1]]
        scale, timestep, *of_samples, blocks = numbers.split(parts)
        *guidance, a, s = (each.view(-1, 1, 1, 1) for each in of_samples)
        x = self.state[:, 0].index_select(0, row_seat) * scale.view(-1, 1, 1, 1)
        given = {name: kept.flatten(0, 1).index_select(0, row_context) for name, kept in self.conditioning.items()}
        given |= {name: self.some[name][:, :most].index_select(0, row_seat) for name, most in used}
        given |= answers(sides, x, timestep, given)
        if self._compiled is not None and depth is Depth.WHOLE:
            output = self._compiled(x, timestep, given)
        else:
            output = evaluate(self.denoiser, depth, (x, timestep, given), self.deep, row_context)
        # Elementwise in float32: autocast, should somebody have switched it on, has nothing to say of it.
        output, variance = output.float().tensor_split([self.state.shape[2]], dim=1)
        registers = self.state.index_select(0, seat)[:, :REGISTERS].unbind(1)
        c = output.index_select(0, conditional)
        u = output.index_select(0, unconditional) if update.rescales or UNCONDITIONAL in update.columns else c
        if update.rescales:
            k = rescaling(c, u, *guidance)
            c, u = k * c, k * u
        noise = self.noise.index_select(0, seat) if NOISE in update.columns else c
        values = (*registers, c, u, noise)
        new = combine(blocks.view(samples, *BLOCK), update.columns, [values[column] for column in update.columns])
        if update.keeps:
            z0, n = self.stays.index_select(0, seat).unbind(1)
            # Chosen and not added up: no bit changes of who keeps nothing.
            new[:, 0] = torch.where(self.repainted.index_select(0, seat), new[:, 0], noised(z0, n, a, s))
        if variance.shape[1]:
            new[:, VARIANCE] = variance.index_select(0, conditional)
        finite = torch.isfinite(new[:, :REGISTERS]).flatten(1).all(1)
        # Last: whatever may raise has been, so that a step that did can be repeated.
        self.state.index_copy_(0, seat, new)
        return finite


def sizes(index: torch.Tensor, numbers: torch.Tensor) -> tuple[int, int]:
    """Rows and samples of the plan with these numbers."""
    samples = (len(numbers) - len(index)) // (1 + BLOCK[0] * BLOCK[1])
    return (len(index) - 3 * samples) // 2, samples


@dataclass(frozen=True, slots=True)
class StepInput:
    """What one sample brings to a step. `guidance` is None for a sample of one row; `block` is its table's. `used`: how
    much it has of what not every sample has, by name. `sides` are the side networks that it asks in this step.
    `noise_levels` are of what stays of a picture after the step (see Table), None where nothing does. `depth`: how much
    of the denoiser it asks; those of OUTER take steps of their own."""

    seat: int
    guidance: Guidance | None
    input_scale: float
    timestep: float
    block: Numbers
    used: Mapping[str, int] = field(default_factory=dict)
    noise_levels: tuple[float, float] | None = None
    sides: Sequence[AskedSide] = ()
    depth: Depth = Depth.WHOLE

    @property
    def rows(self) -> int:
        """Lines it takes in the denoiser's batch."""
        return 1 if self.guidance is None else 2


class Plan:
    """One step in numbers, on the host, for `rows` rows and `samples` samples, those that fill up included.

    `index` int64: the seat of each row; its place among the conditioning, twice the seat, plus one if unconditional;
    the seat of each sample; its conditional row; its unconditional row, or the conditional one again.
    `numbers` float32: input scale of each row, timestep of each row; of each sample the scale of its guidance, how far
    that is rescaled, and the two levels of what stays; block of each sample.
    `used`: which step it is, of those with more or less of what only some rows have.
    `sides`: the rows of each side network that is asked, as many as `fill_up` makes of them.
    `update`: what of a solver's update its samples need, which is little as a rule.
    `depth`: of the step. Where one of its samples wants features kept, all are: the others' are never read.
    """

    def __init__(
        self,
        inputs: Sequence[StepInput],
        *,
        rows: int,
        samples: int,
        fill_up: Callable[[int], int] = lambda rows: rows,
    ) -> None:
        own = np.full((5, max(rows, samples)), NOBODY, np.int64)
        row_numbers = np.zeros((2, rows), np.float32)
        of_samples = np.zeros((4, samples), np.float32)
        blocks = np.zeros((samples, *BLOCK), np.float32)
        row_seat, row_context, seat, conditional, unconditional = own
        # Conditional rows of all samples first, then the unconditional ones of the guided.
        next_unconditional = len(inputs)
        for k, given in enumerate(inputs):
            row_seat[k], row_context[k] = given.seat, 2 * given.seat
            row_numbers[:, k] = given.input_scale, given.timestep
            seat[k], conditional[k], unconditional[k] = given.seat, k, k
            blocks[k] = given.block
            if given.noise_levels is not None:
                of_samples[2:, k] = given.noise_levels
            if given.guidance is not None:
                row_seat[next_unconditional], row_context[next_unconditional] = given.seat, 2 * given.seat + 1
                row_numbers[:, next_unconditional] = row_numbers[:, k]
                of_samples[:2, k] = given.guidance.scale, given.guidance.rescale
                unconditional[k] = next_unconditional
                next_unconditional += 1
        parts = (row_seat[:rows], row_context[:rows], seat[:samples], conditional[:samples], unconditional[:samples])
        self.index = torch.from_numpy(np.concatenate(parts))
        self.numbers = torch.from_numpy(np.concatenate((row_numbers.ravel(), of_samples.ravel(), blocks.ravel())))
        self.used: Used = _most_used(inputs)
        keeps = any(given.noise_levels is not None for given in inputs)
        self.update = Update.of(blocks, of_samples[1], keeps=keeps)
        self.depth = next((each.depth for each in inputs if each.depth is not Depth.WHOLE), Depth.WHOLE)
        places = [sorted({int(conditional[k]), int(unconditional[k])}) for k in range(len(inputs))]
        asking = [(given.seat, own, given.sides) for given, own in zip(inputs, places, strict=True)]
        self.sides = side_rows(asking, rows=rows, fill_up=fill_up)

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The arguments of the step. Does not wait for the device: what it still has to read is pinned until then."""
        return to_device(self.index, device), to_device(self.numbers, device)

    def sides_on(self, device: torch.device) -> list[SideRows]:
        """The same of the rows that ask side networks."""
        return [side.on(device) for side in self.sides]


def _most_used(inputs: Sequence[StepInput]) -> Used:
    most: dict[str, int] = {}
    for given in inputs:
        for name, used in given.used.items():
            most[name] = max(used, most.get(name, 0))
    return tuple(sorted(most.items()))


class Finite:
    """Whether each sample of a step is still made of numbers. Reading waits for the step; read it one step late.

    `room`: where the flags go (see `to_host`), for who must not fail for memory once they are computed.
    """

    def __init__(self, flags: torch.Tensor, room: torch.Tensor | None = None) -> None:
        self._flags, self._arrived = to_host(flags, room)

    def __getitem__(self, k: int) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._flags[k])
