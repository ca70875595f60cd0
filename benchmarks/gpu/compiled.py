"""The step with a UNet that torch.compile compiled, captured as a graph all the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch._inductor.config
import torch.fx.experimental._config

from benchmarks.gpu.models import full_size
from benchmarks.gpu.run import Run
from benchmarks.gpu.speed import by_size, stock_compiled
from worker.models.bundle import Bundle


def compiled(run: Run) -> None:
    # Inductor's own machine code takes minutes of a CPU, and is not what is asked.
    backend = {"backend": "eager"} if run.small else {}
    sizes, label = (4, 2) if run.small else (16, 2), "sd compiled for one size"
    bundle = full_size(run, "sd", run.half)
    run.section("one size", 60, by_size, _with_compiled(bundle, dynamic=False, **backend), label, "auto", sizes)
    if not run.small:
        run.section("stock compiled", 70, stock_compiled, full_size(run, "sd", run.half))
    # Takes minutes, so it comes last.
    bundle = full_size(run, "sd", run.half)
    run.section("any size", 90, by_size, _with_compiled(bundle, dynamic=True, **backend), "sd compiled", "auto", sizes)


def _with_compiled(bundle: Bundle, **options: Any) -> Bundle:
    torch._inductor.config.conv_1x1_as_mm = True
    # Else a batch that happens to be as large as the latents' side is taken to be equal to it, and compiled for itself.
    torch.fx.experimental._config.use_duck_shape = False
    return dataclasses.replace(bundle, unet=torch.compile(bundle.unet, fullgraph=True, **options))
