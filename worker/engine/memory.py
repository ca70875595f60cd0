"""How many rows a GPU's memory holds: measured at warm-up, so that a batch is sized before it fails.

What a model needs is its weights, so much for each row of a step, and so much for each picture in a decode. The first
is allocated by then; this measures the other two and what is left for them. On a CPU nobody knows what is left, and
nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
import torch

from worker.engine.decode import AT_ONCE
from worker.engine.lane import Lane

log = structlog.get_logger()

FEW, MORE = 2, 8
"""Rows of the two steps whose difference tells what a row needs."""

SPARE = 0.05
"""Of the free memory, left alone: allocators round up, and libraries take workspaces later."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes: `free` for steps, `step` for one of no rows, `row` for each row at the native size."""

    free: float
    step: float
    row: float

    def rows(self, scale: float) -> int:
        """That fit into a step whose rows are `scale` times as large as native ones. Never below two: one guided
        picture is tried in any case, and may fail by itself."""
        return max(2, int((self.free - self.step) / (self.row * scale)))


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
    """Of the native size, whose `lane` this is. None on a CPU, and where not even these few rows fit."""
    device = lane.bundle.device
    if meter is None and device.type != "cuda":
        return None
    meter = meter or CudaMeter(device)
    try:
        # Once unmeasured: libraries choose their kernels and load them.
        for rows in (FEW, MORE):
            lane.rehearse(rows, eager=True)
        few, more = (meter.peak(lambda rows=rows: lane.rehearse(rows, eager=True)) for rows in (FEW, MORE))  # type: ignore[misc]
        picture = meter.peak(lane.rehearse_decode)
    except torch.OutOfMemoryError:
        log.warning("little memory: the size of a step is found by running out of it")
        return None
    row = max(1.0, (more - few) / (MORE - FEW))
    memory = Memory(free=(1 - SPARE) * meter.free() - AT_ONCE * picture, step=max(0.0, few - FEW * row), row=row)
    mib = {name: round(value / 2**20, 1) for name, value in (("row", row), ("picture", picture), ("free", memory.free))}
    log.info("memory measured, in MiB", **mib, most_rows=memory.rows(1.0))
    return memory
