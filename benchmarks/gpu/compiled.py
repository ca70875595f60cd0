"""The worker's own setting DARKROOM_COMPILE: steps with a compiled network, captured as graphs all the same."""

from __future__ import annotations

import time

from benchmarks.gpu.models import full_size
from benchmarks.gpu.run import Run
from benchmarks.gpu.speed import all_at_once, by_size, stock_compiled
from worker.engine import compiled as compiling
from worker.engine.engine import Engine
from worker.engine.profile import Told
from worker.families.choose import family_of


def compiled(run: Run) -> None:
    if run.small:
        # Machine code takes minutes of a CPU, and is not what is asked.
        compiling.BACKEND = "eager"
    sizes = (4, 2) if run.small else (16, 2)
    bundle = full_size(run, "sd", run.half)
    run.section("by size", 120, by_size, bundle, "sd compiled", "auto", sizes, "on")
    if not run.small:
        run.section("stock compiled", 70, stock_compiled, full_size(run, "sd", run.half))
    # Takes minutes, so it comes last: each size up to the best one is compiled.
    run.section("warm-up", 5 if run.small else 300, warmed_up, 2 if run.small else 48)


def warmed_up(run: Run, count: int) -> None:
    """What a start takes, and what it brings when all seats are taken."""
    bundle = full_size(run, "sd", run.half)
    engine, sizes = Engine(family_of(bundle), seats=2 if run.small else 16, compile="on"), list[int]()
    started = time.perf_counter()
    engine.warm_up(seconds=run.warm_up_seconds, told=Told(compiling=sizes.append))
    run.note("sd: a start", seconds=time.perf_counter() - started, compiled_for=sizes, is_compiled=engine.is_compiled)
    all_at_once(run, engine, bundle, count, "compiled")
