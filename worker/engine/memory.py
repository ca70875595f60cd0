"""How much a device's memory holds, so that a batch is sized before it fails.

What a model needs is its weights, so much for each row of a step, and so much for each picture in a decode. The first
is allocated by then. On a GPU the other two are measured at warm-up. On a CPU, where a step takes seconds and too large
a decode ends the process without an error, they are told by the widths of the layers, and what is free is asked each
time: others use that memory too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
import torch

from worker.engine.costs import AT_ONCE, FEW, MORE, SPARE, Memory
from worker.engine.errors import is_out_of_memory
from worker.engine.lane import Lane
from worker.machine import Room, main_memory

log = structlog.get_logger()


WITH_GRAPHS = 2
"""Times that the memory of a step is taken where steps are captured: graphs keep theirs, and a step that is launched
kernel by kernel, as each is before its capture, needs as much beside it."""


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


def measure_memory(lane: Lane, *, weights: float, later: float = 0.0, meter: Meter | None = None) -> Memory | None:
    """Of the native size, whose `lane` this is, for a model of so many bytes of `weights`, beside `later` ones that are
    still to be loaded. None where nothing is known, and where not even these few rows fit."""
    device = lane.device
    if meter is None and device.type == "cpu":
        return estimated_memory(lane, main_memory, weights=weights, later=later)
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
    free = (1 - SPARE) * meter.free() - later
    memory = Memory(
        free=free - AT_ONCE * picture,
        step=max(0.0, few - FEW * row),
        row=row,
        most=free,
        steps=WITH_GRAPHS if lane.captures else 1,
    )
    return _logged(memory, picture)


def estimated_memory(lane: Lane, room: Callable[[], Room], *, weights: float, later: float = 0.0) -> Memory:
    """The same of a CPU, by the widths of its model's layers."""
    now, shape = room(), lane.key.latent_shape
    picture = lane.autoencoder.picture_bytes(*shape[1:])
    memory = Memory(
        free=(1 - SPARE) * now.free - later - picture,
        step=0.0,
        row=lane.denoiser.row_bytes(shape),
        most=(1 - SPARE) * max(now.most - weights, now.free) - later,
        picture=picture,
        free_now=lambda: room().free,
    )
    return _logged(memory, picture)


def _logged(memory: Memory, picture: float) -> Memory:
    figures = (("row", memory.row), ("picture", picture), ("free", memory.free))
    mib = {name: round(value / 2**20, 1) for name, value in figures}
    log.info("memory, in MiB", **mib, most_rows=memory.rows(1.0))
    return memory
