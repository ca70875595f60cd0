"""What fewer evaluations bring: the same pictures at once with and without `guidance_end` and `cache`."""

from __future__ import annotations

import time
from typing import Any

from app.contract.messages.deep_cache import Cache
from benchmarks.gpu.models import finish, full_size, request
from benchmarks.gpu.run import Run
from worker.engine.engine import Engine
from worker.families.choose import family_of
from worker.models.bundle import Bundle

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guidance_end 0.5": {"guidance_end": 0.5},
    "cache 2": {"cache": Cache(interval=2)},
    "cache 3": {"cache": Cache(interval=3)},
    "cache 3, guidance_end 0.5": {"cache": Cache(interval=3), "guidance_end": 0.5},
}


def fewer(run: Run) -> None:
    bundle = full_size(run, "sd", run.half)
    run.section("fewer", 30, saturated_by_way, bundle, 2 if run.small else 48)


def saturated_by_way(run: Run, bundle: Bundle, count: int) -> None:
    """All at once, decodes included; the first turn of each way captures its steps, and the second counts."""
    engine = Engine(family_of(bundle), seats=32)
    if run.on_gpu:
        engine.warm_up(seconds=30.0)
    plain = 0.0
    for way, changes in WAYS.items():
        if not run.has(10, way):
            return
        seconds = 0.0
        for turn in range(2):
            for k in range(count):
                engine.submit(request(bundle, f"{way}-{turn}-{k}", num_inference_steps=run.steps, seed=k, **changes))
            started = time.perf_counter()
            finish(engine)
            run.wait()
            seconds = time.perf_counter() - started
        plain = plain or seconds
        run.note(f"{bundle.name}: {count} pictures at once, {way}", pictures_s=count / seconds, times=plain / seconds)
