"""How much a device's memory holds, so that a batch is sized before it fails.

What a model needs is its weights, so much for each row of a step, and so much for each picture in a decode. The first
is allocated by then. On a GPU the other two are measured at warm-up. On a CPU, where a step takes seconds and too large
a decode ends the process without an error, they are told by the widths of the layers, and what is free is asked each
time: others use that memory too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
import torch

from worker.engine.lane import AT_ONCE, Lane
from worker.machine import Room, main_memory
from worker.models.bundle import Bundle
from worker.models.need import decode_bytes, row_bytes
from worker.models.place import is_out_of_memory

log = structlog.get_logger()

FEW, MORE = 2, 8
"""Rows of the two steps whose difference tells what a row needs."""

SPARE = 0.05
"""Of the free memory, left alone: allocators round up, and libraries take workspaces later."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes: `free` for steps, `step` for one of no rows, `row` for each row at the native size.

    `most`: for a step, if all others gave back what they have. `picture`: for a decode at the native size, out of what
    `free_now` tells; where it tells nothing, a decode is tried.
    """

    free: float
    step: float
    row: float
    most: float = math.inf
    picture: float = 1.0
    free_now: Callable[[], float] = lambda: math.inf

    def rows(self, scale: float) -> int:
        """That fit into a step whose rows are `scale` times as large as native ones. Never below two: one guided
        picture is tried in any case, and may fail by itself."""
        return max(2, int((self.free - self.step) / (self.row * scale)))

    def pictures(self, scale: float) -> float:
        """That can be decoded together, of `scale` times the native size. Below one: so much of one."""
        return (1 - SPARE) * self.free_now() / (self.picture * scale)

    @property
    def largest(self) -> float:
        """The size of the largest picture of which a guided step can ever be taken, in native ones."""
        return (self.most - self.step) / (FEW * self.row)


class Meter(Protocol):
    """What a device tells about its memory, in bytes."""

    def peak(self, work: Callable[[], object]) -> float:
        """Allocated at most while `work` was done, beyond what was allocated before."""
        ...

    def free(self) -> float:
        """That this process could allocate."""
        ...


class CudaMeter:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def peak(self, work: Callable[[], object]) -> float:
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_allocated(self._device) - before)

    def free(self) -> float:
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return float(torch.cuda.mem_get_info(self._device)[0] + unused)


def measure_memory(lane: Lane, *, meter: Meter | None = None) -> Memory | None:
    """Of the native size, whose `lane` this is. None where nothing is known, and where not even these few rows fit."""
    device = lane.bundle.device
    if meter is None and device.type == "cpu":
        return told_memory(lane, main_memory)
    if meter is None and device.type != "cuda":
        return None
    meter = meter or CudaMeter(device)
    try:
        # Once unmeasured: libraries choose their kernels and load them.
        for rows in (FEW, MORE):
            lane.rehearse(rows, eager=True)
        few, more = (meter.peak(lambda rows=rows: lane.rehearse(rows, eager=True)) for rows in (FEW, MORE))  # type: ignore[misc]
        picture = meter.peak(lane.rehearse_decode)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("little memory: the size of a step is found by running out of it")
        return None
    row = max(1.0, (more - few) / (MORE - FEW))
    free = (1 - SPARE) * meter.free()
    return _told(Memory(free=free - AT_ONCE * picture, step=max(0.0, few - FEW * row), row=row, most=free), picture)


def told_memory(lane: Lane, room: Callable[[], Room]) -> Memory:
    """The same of a CPU, by the widths of its model's layers."""
    bundle, (_, height, width) = lane.bundle, lane.key.latent_shape
    now = room()
    picture = decode_bytes(
        bundle.vae.config, height * bundle.vae_scale_factor, width * bundle.vae_scale_factor, bundle.vae.dtype.itemsize
    )
    memory = Memory(
        free=(1 - SPARE) * now.free - picture,
        step=0.0,
        row=row_bytes(bundle.unet.config, height, width, bundle.dtype.itemsize),
        most=(1 - SPARE) * max(now.most - weights_bytes(bundle), now.free),
        picture=picture,
        free_now=lambda: room().free,
    )
    return _told(memory, picture)


def weights_bytes(bundle: Bundle) -> float:
    """That the model itself takes."""
    parts = (bundle.unet, bundle.vae, bundle.text_encoder, bundle.text_encoder_2)
    modules = (part for part in parts if isinstance(part, torch.nn.Module))
    return float(sum(each.nbytes for module in modules for each in module.parameters()))


def _told(memory: Memory, picture: float) -> Memory:
    figures = (("row", memory.row), ("picture", picture), ("free", memory.free))
    mib = {name: round(value / 2**20, 1) for name, value in figures}
    log.info("memory, in MiB", **mib, most_rows=memory.rows(1.0))
    return memory
