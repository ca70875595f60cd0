"""benchmarks.trace with a model of full size."""

from __future__ import annotations

import random
import time

from benchmarks import trace as traces
from benchmarks.gpu.models import full_size
from benchmarks.gpu.run import Run
from worker.engine.engine import Engine
from worker.families.choose import family_of

LOADS = (1.2, 2.0)


def trace(run: Run) -> None:
    run.section("trace", 30, _trace)


def _trace(run: Run) -> None:
    bundle = full_size(run, "sd", run.half)
    engine, stock, chance = Engine(family_of(bundle), seats=traces.MOST), traces.Stock(bundle), random.Random(7)
    engine.warm_up(seconds=run.warm_up_seconds)
    ways: dict[str, traces.Way] = {
        "engine": lambda trace: traces.through_engine(engine, trace, traces.Clock(time.perf_counter)),
        "one after the other": lambda trace: traces.through_stock(
            stock, trace, traces.Clock(time.perf_counter), traces.first
        ),
        "static batches": lambda trace: traces.through_stock(
            stock, trace, traces.Clock(time.perf_counter), traces.all_of_a_kind
        ),
    }
    few = 3 if run.small else traces.CALIBRATION
    for way in ways.values():
        way(traces.poisson(bundle, chance, count=few, rate=1e6, same=False))
    alone = traces.poisson(bundle, chance, count=few, rate=1e6, same=False)
    cost = max(ways["one after the other"](alone)) / few
    left = run.ends - time.monotonic()
    for load in LOADS:
        count = few if run.small else max(few, int(left / len(LOADS) / cost / traces.TRACES_A_LOAD))
        arrivals = traces.poisson(bundle, chance, count=count, rate=load / cost, same=False)
        run.note(f"load {load:g}", requests=count, alone_s=cost)
        for row in traces.compared(arrivals, ways):
            run.add("mixed", traces.MIXED, load=load, **row)
