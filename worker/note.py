"""What this worker says of itself with each beat: how full it is, how fast, and what it is at.

Knows counters. Refuses to know who reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from app import __version__
from app.contract.messages.worker_note import WorkerNote
from worker.attempts import Attempts
from worker.engine.stage import Stage


@dataclass(slots=True)
class SelfReport:
    """Called once for each beat. `room` has the seats and the free ones of what is in memory, if anything is; `rows`
    counts the rows that it has evaluated; `stage` is what the device is at."""

    device: str
    room: Callable[[], Sequence[tuple[int, int]]]
    attempts: Attempts
    stage: Callable[[], Stage | None]
    rows: Callable[[], int] = lambda: 0
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _before: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._before = self._began, self.rows()

    def __call__(self) -> WorkerNote:
        now, rows = self.clock(), self.rows()
        (then, rows_then), self._before = self._before, (now, rows)
        jobs, stage = len(self.attempts.claims()), self.stage()
        seats, free = next(iter(self.room()), (0, 0))
        # Between two steps nothing is computed, for microseconds.
        busy = stage.name if stage else "between two steps"
        return WorkerNote(
            version=__version__,
            device=self.device,
            seats=seats,
            free_seats=max(0, free),
            jobs=jobs,
            rows_per_second=_rate(rows - rows_then, now - then),
            activity=busy if jobs or stage else "idle",
            uptime_seconds=round(now - self._began, 1),
        )


def _rate(rows: int, seconds: float) -> float:
    """Rows are counted from 0 again by another model."""
    return round(rows / seconds, 2) if rows > 0 and seconds > 0 else 0.0


def device_words(device: torch.device | None) -> str:
    """cpu, or cuda:0 with the name of the GPU."""
    if device is None:
        return "none"
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
