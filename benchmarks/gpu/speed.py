"""How fast: steps by their size, a lone picture beside the stock pipeline, many at once, and what is not denoising."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Collection

import torch

from benchmarks.gpu.models import GFLOP, finish, full_size, native_lane, plan_of, request
from benchmarks.gpu.run import Run, ceilings
from benchmarks.report import Column
from worker.engine.compiled import Compile
from worker.engine.engine import Engine
from worker.engine.graphs import BUCKETS
from worker.engine.lanes import Graphs
from worker.engine.profile import SIZES
from worker.engine.sample import Sample
from worker.families.choose import family_of
from worker.families.text import Reading, Text
from worker.models.bundle import Bundle, stock_pipeline

AHEAD = 8
"""Steps launched one after the other before the last is waited for."""

STEPS = {
    "way": Column(label="network, way"),
    "rows": Column(label="rows"),
    "ms": Column(label="ms", format=".1f"),
    "waited_ms": Column(label="waited for each, ms", format=".1f"),
    "rows_s": Column(label="rows/s", format=".0f"),
    "tflop_s": Column(label="TFLOP/s", format=".0f"),
    "first_s": Column(label="first step of that size, s", format=".1f"),
    "reserved_gib": Column(label="reserved, GiB", format=".1f"),
}


def speed(run: Run) -> None:
    sizes = (2, 4) if run.small else SIZES
    bundle = full_size(run, "sd", run.half)
    run.section("ceilings", 5, ceilings)
    run.section("lone", 15, lone, bundle)
    run.section("graphs", 25, by_size, bundle, "sd graphs", "auto", sizes)
    run.section("eager", 25, by_size, bundle, "sd eager", "off", sizes)
    run.section("saturated", 30, saturated, bundle, 4 if run.small else 48)
    if run.on_gpu:
        run.section("graph memory", 25, graph_memory, bundle)
    run.section("rest", 10, rest_of_a_picture, bundle)


def xl(run: Run) -> None:
    bundle = full_size(run, "xl", run.half)
    run.section("xl graphs", 15, by_size, bundle, "xl graphs", "auto", (2, 4, 8))
    run.section("xl eager", 10, by_size, bundle, "xl eager", "off", (2, 8))
    run.section("xl lone", 15, lone, bundle)
    run.section("xl rest", 10, rest_of_a_picture, bundle)


def by_size(
    run: Run, bundle: Bundle, label: str, graphs: Graphs, sizes: tuple[int, ...], compile: Compile = "off"
) -> None:
    """`ms` with the host ahead, `waited_ms` with a wait after each; `first_s` is the first of its size, with what it
    takes to compile it."""
    lane, ahead = native_lane(bundle, graphs, compile=compile), 1 if run.small else AHEAD
    with torch.inference_mode():
        for rows in sizes:
            if not run.has(4, f"{label} {rows} rows"):
                return
            plan, started = plan_of(lane, rows), time.perf_counter()
            lane.compile(rows)
            lane.run(plan)
            run.wait()
            first = time.perf_counter() - started
            waited = run.seconds(lambda p=plan: lane.run(p), rounds=9)  # type: ignore[misc]
            step = run.seconds(lambda p=plan: [lane.run(p) for _ in range(ahead)], rounds=3, warm=1) / ahead  # type: ignore[misc]
            run.add(
                "steps",
                STEPS,
                way=label,
                rows=rows,
                ms=step * 1e3,
                waited_ms=waited * 1e3,
                rows_s=rows / step,
                tflop_s=rows * GFLOP[bundle.name] / step / 1e3,
                first_s=first,
                reserved_gib=torch.cuda.max_memory_reserved(run.device) / 2**30 if run.on_gpu else 0.0,
            )


def graph_memory(run: Run, bundle: Bundle) -> None:
    """Of all sizes: captured small to large, and large to small, as the engine does it."""
    for name, sizes in (("rising", BUCKETS), ("falling", BUCKETS[::-1])):
        torch.cuda.empty_cache()
        before, lane = torch.cuda.memory_reserved(run.device), native_lane(bundle, "on")
        started = time.perf_counter()
        with torch.inference_mode():
            for rows in sizes:
                lane.rehearse(rows)
        seconds = time.perf_counter() - started
        torch.cuda.empty_cache()
        run.note(f"graphs, {name}", gib=(torch.cuda.memory_reserved(run.device) - before) / 2**30, seconds=seconds)
        del lane


def rest_of_a_picture(run: Run, bundle: Bundle) -> None:
    shape = bundle.latent_shape(bundle.defaults.height, bundle.defaults.width)
    with torch.inference_mode():
        for count in (1, 2, 4):
            latents = torch.randn(count, *shape, device=run.device, dtype=bundle.vae.dtype)
            seconds = run.seconds(lambda z=latents: bundle.vae.decode(z, return_dict=False)[0], rounds=5)  # type: ignore[misc]
            run.note(f"{bundle.name}: decode {count}", ms=1e3 * seconds)
        reader = family_of(bundle)._reader  # type: ignore[attr-defined]
        for count in (1, 8):
            texts = [Text(f"a {k} red circle", Reading()) for k in range(count)]
            seconds = run.seconds(lambda t=texts: reader._read(t), rounds=5)  # type: ignore[misc]
            run.note(f"{bundle.name}: encode {count}", ms=1e3 * seconds)


def lone(run: Run, bundle: Bundle) -> None:
    """One picture: the stock pipeline, the engine without graphs and with them, taken in turns."""
    stock = stock_pipeline(bundle, "dpmpp_2m")
    # It casts SDXL's VAE to float32 by itself, and expects to find it in the type of the latents.
    stock.vae = copy.deepcopy(bundle.vae).to(bundle.dtype)
    ways: dict[str, Callable[[], object]] = {"stock": lambda: stock(**_stock_call(bundle, run.steps))}
    for graphs in ("off", "auto") if run.on_gpu else ("off",):
        engine = Engine(family_of(bundle), graphs=graphs)  # type: ignore[arg-type]
        ways[f"engine, graphs {graphs}"] = lambda engine=engine: _draw(engine, bundle, run.steps)  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(2 if run.small else 4):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            run.wait()
            if turn:
                taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    run.note(f"{bundle.name}: one picture of {run.steps} steps", **medians)


def _draw(engine: Engine, bundle: Bundle, steps: int) -> None:
    engine.submit(request(bundle, "lone", num_inference_steps=steps))
    finish(engine)


def _stock_call(bundle: Bundle, steps: int) -> dict[str, object]:
    return {
        "prompt": "a red circle",
        "height": bundle.defaults.height,
        "width": bundle.defaults.width,
        "num_inference_steps": steps,
        "guidance_scale": 7.5,
        "output_type": "np",
    }


class Waiting(Engine):
    """The engine as it would be without running ahead: it reads the newest step's flags before anything else."""

    def _read_flags(self, *, but_newest: bool = False, of: Collection[Sample] = ()) -> None:
        super()._read_flags()


def saturated(run: Run, bundle: Bundle, count: int) -> None:
    """All at once, the host ahead of the device, and waiting for it at each step."""
    for name, kind in (("ahead", Engine), ("waiting", Waiting)):
        engine = kind(family_of(bundle), seats=16)
        engine.warm_up(seconds=run.warm_up_seconds)
        all_at_once(run, engine, bundle, count, f"the host {name}")


def all_at_once(run: Run, engine: Engine, bundle: Bundle, count: int, label: str) -> None:
    """Twice: the second time counts."""
    seconds = 0.0
    for turn in range(2):
        for k in range(count):
            engine.submit(request(bundle, f"{turn}-{k}", num_inference_steps=run.steps, seed=k))
        started = time.perf_counter()
        finish(engine)
        seconds = time.perf_counter() - started
    profile = engine.costs.profile
    run.note(
        f"{bundle.name}: {count} pictures at once, {label}",
        pictures_s=count / seconds,
        tflops=count * 2 * run.steps * GFLOP[bundle.name] / 1e3 / seconds,
        most_rows=profile.rows if profile else None,
    )


def stock_compiled(run: Run, bundle: Bundle) -> None:
    """The rival of a compiled engine: the stock pipeline with diffusers' own advice for speed."""
    stock = stock_pipeline(bundle, "dpmpp_2m")
    stock.unet = torch.compile(stock.unet, mode="reduce-overhead", fullgraph=True)
    started = time.perf_counter()
    stock(**_stock_call(bundle, run.steps))
    first = time.perf_counter() - started
    seconds = run.seconds(lambda: stock(**_stock_call(bundle, run.steps)), rounds=3, warm=1)
    run.note(f"{bundle.name}: stock compiled, one picture of {run.steps} steps", seconds=seconds, compile_s=first)
