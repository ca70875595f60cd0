"""What steps and decodes cost on this device: of arithmetic, of time and of memory.

Data, and what follows from it. Measured elsewhere: memory.py and profile.py fill it in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.contract.messages.job import DECODE_ROWS
from worker.engine.deep import Depth
from worker.engine.flops import row_flops
from worker.engine.rows import LaneKey
from worker.engine.tiles import SMALLEST

AT_ONCE = 4
"""Samples in one call of the VAE, at most. At 512 pixels its activations already take some 0.9 GiB a picture in
bfloat16."""

FEW, MORE = 2, 8
"""Rows of the two steps whose difference tells what a row needs."""

SPARE = 0.05
"""Of the free memory, left alone: allocators round up, and libraries take workspaces later."""


@dataclass(frozen=True, slots=True)
class Profile:
    """`rows`: the most in one step at the native size, None for no limit. `row_cost`: of such a row, in FLOPs.

    `rows_a_second` by rows in the step, as far as it was measured; on a CPU, of the process's own time. `seconds`: how
    long such a step was waited for, also by rows. `decode_seconds`: the same of one picture of the native size, 0 if it
    could not be timed. `is_complete`: there was time to find the best size; if not, a later `measure` goes on.
    `is_compiled`: the denoiser was, for these sizes.
    """

    rows: int | None
    row_cost: float
    rows_a_second: Mapping[int, float]
    is_complete: bool = True
    seconds: Mapping[int, float] = field(default_factory=dict)
    decode_seconds: float = 0.0
    is_compiled: bool = False

    def rows_for(self, row_cost: float) -> int | None:
        """The most rows of another size: they fill the device as well when they cost as much. Never below two."""
        return None if self.rows is None else max(2, round(self.rows * self.row_cost / row_cost))

    @property
    def row_seconds(self) -> float:
        """Of a step, for each of its rows, in the size that suits the device worst. 0 where nothing was measured."""
        return max((seconds / rows for rows, seconds in self.seconds.items()), default=0.0)

    @property
    def expected_decode_seconds(self) -> float:
        """Of one picture of the native size: by the arithmetic of it where none could be timed."""
        return self.decode_seconds or DECODE_ROWS * self.row_seconds


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes: `free` for steps, `step` for one of no rows, `row` for each row at the native size.

    `steps`: how many times that is taken at once. `most`: for a step, if all others gave back what they have.
    `picture`: for a decode at the native size, out of what `free_now` tells; where it tells nothing, a decode is tried.
    """

    free: float
    step: float
    row: float
    most: float = math.inf
    picture: float = 1.0
    free_now: Callable[[], float] = lambda: math.inf
    steps: int = 1

    def rows(self, scale: float) -> int:
        """That fit into a step whose rows are `scale` times as large as native ones. Never below two: one guided
        picture is tried in any case, and may fail by itself."""
        return max(2, int((self.free / self.steps - self.step) / (self.row * scale)))

    def pictures(self, scale: float) -> float:
        """That can be decoded together, of `scale` times the native size. Below one: so much of one."""
        return (1 - SPARE) * self.free_now() / (self.picture * scale)

    def takes(self, size: float) -> bool:
        """Is there room now for so many bytes more? Yes where nobody can tell: then it is tried."""
        return size <= (1 - SPARE) * self.free_now()

    @property
    def largest(self) -> float:
        """The size of the largest picture of which a guided step can ever be taken, in native ones."""
        return (self.most - self.step) / (FEW * self.row)


class Costs:
    """What a row of each shape costs, counted once; the profile that says how much of that makes a good step; and the
    memory that bounds it."""

    def __init__(self, native: LaneKey) -> None:
        self.profile: Profile | None = None
        self.memory: Memory | None = None
        self.native = native
        """Of a picture of the model's own size, for which both are."""
        self._rows: dict[tuple[object, ...], float] = {}

    def row(self, key: LaneKey, depth: Depth = Depth.WHOLE) -> float:
        """Floating point operations of one."""
        shape = key.denoiser, key.latent_shape, key.conditioning, depth is Depth.OUTER
        if shape not in self._rows:
            self._rows[shape] = row_flops(key.denoiser, key.latent_shape, dict(key.conditioning), depth)
        return self._rows[shape]

    def most_rows(self, key: LaneKey) -> int | None:
        """In one step, for speed and for memory; None for as many as there are."""
        wise = None if self.profile is None or self.profile.rows is None else self.profile.rows_for(self.row(key))
        if self.memory is None:
            return wise
        possible = self.memory.rows(self.scale(key))
        return possible if wise is None else min(wise, possible)

    def step_seconds(self, key: LaneKey, rows: int, depth: Depth = Depth.WHOLE) -> float:
        """What a step is expected to take; 0 before anything was measured."""
        if self.profile is None or not self.profile.row_seconds:
            return 0.0
        return self.profile.row_seconds * rows * self.row(key, depth) / self.profile.row_cost

    def encode_seconds(self, height: int, width: int, pictures: int) -> float:
        """What encoding them is expected to take at most, as long as decoding them; sides are in latents."""
        if self.profile is None:
            return 0.0
        return self.profile.expected_decode_seconds * pictures * self._times_native(height, width)

    def decode_seconds(self, key: LaneKey, pictures: int) -> float:
        """What a decode is expected to take; 0 before one was measured."""
        if self.profile is None:
            return 0.0
        return self.profile.expected_decode_seconds * pictures * self.scale(key)

    @property
    def largest(self) -> float:
        """The largest picture that can ever be drawn, in native ones."""
        return math.inf if self.memory is None else self.memory.largest

    def decodes(self, key: LaneKey) -> tuple[int, int | None]:
        """Pictures that there is memory to decode together, and the side of a tile in latents if not even for one."""
        return self.fitting(*key.latent_shape[1:])

    def fitting(self, height: int, width: int) -> tuple[int, int | None]:
        """The same of pictures of so many latents, to decode or to encode: what fits when it is decoded does when it is
        encoded (worker/models/need.py has the measurement)."""
        if self.memory is None:
            return AT_ONCE, None
        fit = self.memory.pictures(self._times_native(height, width))
        if fit >= 1:
            return int(min(AT_ONCE, fit)), None
        return 1, max(SMALLEST, int(math.sqrt(fit * height * width)))

    def scale(self, key: LaneKey) -> float:
        """How many times as large as a native picture."""
        return self._times_native(*key.latent_shape[1:])

    def _times_native(self, height: int, width: int) -> float:
        return height * width / math.prod(self.native.latent_shape[1:])
