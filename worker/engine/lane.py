"""A lane: samples that may share a step, with a seat in the same buffers.

Knows shapes, seats and sizes of batches. Knows no requests, and not who steps when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import structlog
import torch

from worker.engine.compiled import CompiledDenoiser
from worker.engine.costs import AT_ONCE, Costs
from worker.engine.deep import Depth
from worker.engine.denoise import Finite, Plan, StaticStep, StepInput
from worker.engine.errors import is_out_of_memory
from worker.engine.family import Autoencoder
from worker.engine.graphs import BUCKETS, GraphMemory, StepGraphs
from worker.engine.keep import Keep
from worker.engine.rows import LaneKey, Mode, Rows
from worker.engine.sides import AskedSide, Side, SideNetwork
from worker.engine.transfer import fill, room_on_host

log = structlog.get_logger()

REPRODUCIBLE_ROWS = 2
"""In each step of a reproducible sample, which takes it alone: those of one guided picture. On a GPU a row's bits also
depend on its place in the batch, as measured on an H100."""


class Lane:
    """Buffers for `seats` samples, the step over them, and what decodes them.

    Steps are captured where there is `graph_memory`; `strict`: one that cannot be is an error. `compiled` is the key's
    denoiser, compiled for some sizes.
    """

    def __init__(
        self,
        key: LaneKey,
        autoencoder: Autoencoder,
        *,
        seats: int,
        costs: Costs,
        graph_memory: GraphMemory | None = None,
        strict: bool = False,
        compiled: CompiledDenoiser | None = None,
    ) -> None:
        in_float32 = key.mode is Mode.RESCUE
        denoiser = key.denoiser.in_float32() if in_float32 else key.denoiser
        self.key = key
        self._compiled = compiled
        self.denoiser = denoiser
        self.device = denoiser.device
        self.autoencoder = autoencoder.in_float32() if in_float32 else autoencoder
        self.idle_since: float | None = None
        self._costs = costs
        self._free = list(range(seats, 0, -1))
        self._seats = seats
        self._most_decodes = AT_ONCE
        self.step = StaticStep(
            denoiser, seats=seats, latent_shape=key.latent_shape, conditioning=dict(key.conditioning), compiled=compiled
        )
        self._in_float32: dict[SideNetwork, SideNetwork] | None = {} if in_float32 else None
        self._run: Callable[..., torch.Tensor] = self.step
        if graph_memory is not None:
            self._run = StepGraphs(self.step, graph_memory, strict=strict)

    @property
    def is_empty(self) -> bool:
        return len(self._free) == self._seats

    @property
    def picture_sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.key.latent_shape
        return self.autoencoder.pixels_per_latent * height, self.autoencoder.pixels_per_latent * width

    @property
    def captures(self) -> bool:
        """Its steps are captured as graphs, as far as they can be."""
        return isinstance(self._run, StepGraphs)

    @property
    def row_cost(self) -> float:
        """Floating point operations of one row."""
        return self._costs.row(self.key)

    def cost(self, rows: int, depth: Depth) -> float:
        """The same of so many rows at that depth."""
        return rows * self._costs.row(self.key, depth)

    @property
    def most_rows(self) -> int | None:
        """In one step; None for as many as there are. One sample goes in any case: with 1, every one goes alone."""
        return self._costs.most_rows(self.key) if self.key.mode is Mode.SHARED else 1

    def step_seconds(self, rows: int, depth: Depth = Depth.WHOLE) -> float:
        """What a step of so many rows is expected to take; 0 where nobody knows."""
        return self._costs.step_seconds(self.key, rows, depth)

    def decode_seconds(self, pictures: int) -> float:
        """What their decode is expected to take; 0 where nobody knows."""
        return self._costs.decode_seconds(self.key, pictures)

    def decodes(self, within: float = math.inf) -> tuple[int, int | None]:
        """Samples to decode together, as far as memory goes and as is expected to be done `within` so many seconds, one
        in any case; and the side of a tile in latents, where memory does not go as far as one."""
        fit, tile = self._costs.decodes(self.key)
        most = min(fit, self._most_decodes)
        return next((n for n in range(most, 1, -1) if self.decode_seconds(n) <= within), 1), tile

    def lower_decodes(self, pictures: int) -> None:
        """There was no memory for so many at once: fewer, as long as the lane lasts. A single one is always tried whole
        first, for memory that is full now may be free then, and tiles can be seen."""
        self._most_decodes = min(self._most_decodes, max(1, pictures // 2))

    def take_seat(
        self, rows: Rows, keep: Keep | None = None, sides: Sequence[Side] = (), *, keeps_deep: bool = False
    ) -> int:
        """With all that is kept there. May raise torch.OutOfMemoryError; the seat is then as free as before."""
        if keeps_deep:
            self._make_deep()
        seat = self._free[-1]
        self.step.keep(seat, rows, keep)
        for side in sides:
            self.step.give(seat, self._side_network(side), side.given)
        return self._free.pop()

    def _make_deep(self) -> None:
        """On a CPU nothing raises where memory is full: the process is ended, with everybody's pictures."""
        memory = self._costs.memory
        if self.step.deep is None and memory is not None and not memory.takes(self.deep_bytes):
            raise torch.OutOfMemoryError(f"no memory for {self.deep_bytes} bytes of deep features")
        self.step.make_deep()

    def send_noise(self, seat: int, noise: torch.Tensor) -> None:
        """What the solver of the sample in that seat adds in its next step, float32 [C, h, w] from the host. Behind
        the step that may still be computed."""
        fill(self.step.noise[seat], noise)

    @property
    def deep_bytes(self) -> int:
        """That features of all seats take, if they are to be kept."""
        return self.step.deep_bytes

    def asked(self, sides: Sequence[Side], evaluation: int) -> list[AskedSide]:
        """The side networks that a sample with such `sides` asks at an evaluation of its pass."""
        wanted = [(self._side_network(side), side.scales[evaluation]) for side in sides if side.scales[evaluation]]
        return [AskedSide(network, self.step.sides[network], scale) for network, scale in wanted]

    def drop_sides(self) -> None:
        """Let go of what is kept for side networks that nobody wants any more."""
        dropped = [network for network in self.step.sides if network.is_dropped]
        for network in dropped:
            del self.step.sides[network]
        if dropped and isinstance(self._run, StepGraphs):
            self._run.forget(dropped)

    def leave(self, seat: int) -> None:
        self._free.append(seat)

    def registers(self, seat: int) -> torch.Tensor:
        """Float32 [registers + x0, C, h, w], as they are on the device: a view."""
        return self.step.state[seat]

    def deep(self, seat: int) -> torch.Tensor | None:
        """The deep features of both rows of the sample there, [2, C, h, w]: a view. None where none are kept."""
        return None if self.step.deep is None else self.step.deep[2 * seat : 2 * seat + 2]

    def take_step(self, inputs: Sequence[StepInput]) -> Finite:
        """One model evaluation for each of `inputs`, and what its solver makes of it. They are all of the outermost
        layers only, or none is."""
        rows, samples = self._size(inputs)
        plan = Plan(inputs, rows=rows, samples=samples, fill_up=self._filled_up)
        # Before the launch: behind it the samples have moved, and the step must not be taken for one that failed.
        room = room_on_host((samples,), torch.bool, self.device)
        return Finite(self.run(plan), room)

    def run(self, plan: Plan) -> torch.Tensor:
        """Launch a step: whether each sample of it is finite, bool [samples] on the device. A graph does all of the
        update for whoever comes, so that there are no more graphs than sizes."""
        given = *plan.on(self.device), plan.used, plan.sides_on(self.device), plan.depth
        return self._run(*given) if isinstance(self._run, StepGraphs) else self._run(*given, plan.update)

    def capture(self, most_rows: int) -> None:
        """Have the graphs of all steps up to that size ready, where steps are captured: anew, the largest first, for
        that is what their memory can be shared by. One for which there is no memory is left out."""
        if not isinstance(self._run, StepGraphs):
            return
        self._run.forget()
        for size in reversed([size for size in self._buckets() if size <= self._filled_up(most_rows)]):
            try:
                self.rehearse(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("no memory to capture a step", rows=size)

    def is_to_compile(self, rows: int) -> bool:
        """Its denoiser can be compiled for such a step, and is not yet."""
        compiled = self._compiled
        return compiled is not None and not compiled.is_given_up and self._compiled_rows(rows) not in compiled.sizes

    def compile(self, rows: int) -> None:
        """Have the denoiser compiled for such a step. Raises CannotCompile."""
        if self._compiled is not None:
            with self._compiled.compiling():
                self.rehearse(self._compiled_rows(rows), eager=True)

    def _compiled_rows(self, rows: int) -> int:
        return _bucket(rows, BUCKETS) if self.captures else rows

    @property
    def is_compiled(self) -> bool:
        """For some sizes of a step at least."""
        return self._compiled is not None and bool(self._compiled.sizes)

    def rehearse(self, rows: int, *, eager: bool = False) -> None:
        """A step of `rows` rows that are nobody's, filled up as in service, and waited for. `eager`: neither as a graph
        nor filled up."""
        size = rows if eager else self._filled_up(rows)
        plan = Plan((), rows=size, samples=size)
        Finite((self.step if eager else self._run)(*plan.on(self.device)))[0]

    def rehearse_decode(self, pictures: int = 1) -> None:
        """Pictures of this size that are nobody's, decoded."""
        self.autoencoder.decode(torch.zeros(pictures, *self.key.latent_shape, device=self.device))

    def rehearse_encode(self, pictures: int) -> None:
        """The same from pixels to latents."""
        self.autoencoder.encode(torch.zeros(pictures, 3, *self.picture_sides))

    def _side_network(self, side: Side) -> SideNetwork:
        """As this lane asks it."""
        if self._in_float32 is None:
            return side.network
        if side.network not in self._in_float32:
            self._in_float32[side.network] = side.network.in_float32()
        return self._in_float32[side.network]

    def _size(self, inputs: Sequence[StepInput]) -> tuple[int, int]:
        """Rows and samples of the step. A CPU takes exactly what there is, since every row costs its time."""
        rows = sum(each.rows for each in inputs)
        if self.key.mode is Mode.REPRODUCIBLE:
            size = REPRODUCIBLE_ROWS
        elif isinstance(self._run, StepGraphs):
            size = self._filled_up(rows)
        else:
            return rows, len(inputs)
        return size, size

    def _filled_up(self, rows: int) -> int:
        """Rows of the step that is launched for so many."""
        if not isinstance(self._run, StepGraphs):
            return rows
        return _bucket(rows, self._buckets())

    def _buckets(self) -> list[int]:
        """Rows of the steps that are captured. To fill a step up to one that is compiled costs less than what compiling
        saves."""
        compiled = self._compiled.sizes if self._compiled is not None else []
        return [*compiled, *(bucket for bucket in BUCKETS if bucket > max(compiled, default=0))]


def _bucket(rows: int, buckets: Sequence[int]) -> int:
    return next((bucket for bucket in buckets if bucket >= rows), rows)
