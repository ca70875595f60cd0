"""One run of a part: the time that is left, and where its figures go."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Run:
    """`device` is where to measure; `small`: on tiny models, to try the script itself."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: torch.device = torch.device(options.device)
        self.small: bool = options.small
        self.ends = time.monotonic() + 60 * options.minutes
        self._figures: dict[str, Any] = {}
        self._file = Path(os.environ.get("OUT", ".")) / f"gpu-{options.part}.json"

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """The type of numbers in which speed is measured."""
        return torch.float32 if self.small else torch.float16

    @property
    def halves(self) -> tuple[torch.dtype, ...]:
        return (torch.float32,) if self.small else (torch.float16, torch.bfloat16)

    @property
    def steps(self) -> int:
        return 3 if self.small else 20

    def has(self, seconds: float, what: str) -> bool:
        """Are so many seconds left? Says what is left out if not."""
        if (left := self.ends - time.monotonic()) < seconds:
            print(f"LEFT OUT, {left:.0f} s left: {what}", flush=True)
            return False
        return True

    def note(self, name: str, **figures: Any) -> None:
        self._figures[name] = figures
        told = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        print(name, " ".join(told), flush=True)
        self._file.write_text(json.dumps(self._figures, default=str))

    def section(self, name: str, seconds: float, work: Callable[..., None], *arguments: Any) -> None:
        """Whatever it raises is printed, and the next one runs."""
        if not self.has(seconds, name):
            return
        started = time.monotonic()
        try:
            work(self, *arguments)
        except Exception:
            traceback.print_exc()
            self.note(name, FAILED=True)
        self.wait()
        print(f"   ({name}: {time.monotonic() - started:.1f} s)", flush=True)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, rounds: int = 7, warm: int = 2) -> float:
        """The median of so many, each waited for."""
        for _ in range(warm):
            work()
        self.wait()
        taken = []
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of `a` from `b`, relative to `b`."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())
