"""One run of a part: the time that is left, and where its figures go."""

from __future__ import annotations

import argparse
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Cell, Column, Report

NOTES = {"name": Column(label="what"), "figure": Column(label="figure"), "value": Column(label="", format=".4g")}
"""Whatever has no table of its own."""


class Run:
    """`device` is where to measure; `small`: on tiny models, to try the script itself."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device: torch.device = torch.device(options.device)
        self.small: bool = options.small
        self.ends = time.monotonic() + 60 * options.minutes
        file = options.json or _file_in_out(options.part)
        self._report = Report("gpu", file, gpu=torch.cuda.get_device_name(self.device) if self.on_gpu else None)

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
    def warm_up_seconds(self) -> float:
        """For timing an engine's steps before it is measured."""
        return 0.1 if self.small else 30.0

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
        for figure, value in figures.items():
            cell = value if isinstance(value, int | float | None) else str(value)
            self.add("notes", NOTES, name=name, figure=figure, value=cell)

    def add(self, name: str, columns: dict[str, Column], /, **cells: Cell) -> None:
        """One more row of a table."""
        self._report.add(name, columns, **cells)

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
        """The median of so many, each waited for. One will do to try the script."""
        if self.small:
            rounds, warm = 1, 0
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


def _file_in_out(part: str) -> Path | None:
    """Where the figures of a part go of which nobody said where: into $OUT, or nowhere."""
    folder = os.environ.get("OUT")
    return Path(folder) / f"gpu-{part}.json" if folder else None


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of `a` from `b`, relative to `b`."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


def ceilings(run: Run) -> None:
    """What the chip can do: a large matrix product, and a copy that counts bytes read and written."""
    side, size = (512, 1 << 20) if run.small else (8192, 1 << 31)
    a, b = (torch.randn(side, side, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    product = run.seconds(lambda: a @ b)
    source = torch.randn(size // 4, device=run.device)
    copy = run.seconds(lambda: source.clone())
    run.note("ceilings", bf16_tflops=2 * side**3 / product / 1e12, copy_tb_s=2 * size / copy / 1e12)
