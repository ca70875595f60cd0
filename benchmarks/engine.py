"""The engine against the stock pipeline, in one process on one machine: `python -m benchmarks.engine`.

A figure, never a gate. Prints markdown: what a lone request costs in either, taken in turns so that a busy machine
slows both, the stock pipeline with its weights as diffusers loads them; how long a step takes at each batch size, how
much of it is not the UNet's, and how far it is from what the chip's matrix products could do; the same for a UNet in
the shape of Stable Diffusion's, at a fraction of its width.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from benchmarks.report import Column, Report, add_option
from worker.engine.compiled import Compile
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.family import Family
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load, stock_pipeline
from worker.models.quiet import quiet_libraries

PRODUCT_SIDE = 1_536
PRODUCT_FLOPS = 2 * PRODUCT_SIDE**3

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

PROMPT = "a red circle on a blue background"

ENDLESS = 1_000
"""Inference steps of a batch that is not to end while it is measured."""

LONE = {
    "scheduler": Column(label="scheduler"),
    "stock_s": Column(label="stock pipeline, s", format=".3f"),
    "engine_s": Column(label="engine, s", format=".3f"),
    "ratio": Column(label="engine / stock, median of pairs", format=".3f"),
    "pairs": Column(label="pairs"),
}

COMPILED = {
    "scheduler": Column(label="scheduler"),
    "stock_s": Column(label="compiled stock pipeline, s", format=".3f"),
    "engine_s": Column(label="engine, s", format=".3f"),
    "compiled_s": Column(label="engine with DARKROOM_COMPILE=on, s", format=".3f"),
    "ratio": Column(label="engine / stock, median of pairs", format=".3f"),
    "compiled_ratio": Column(label="compiled engine / stock", format=".3f"),
    "pairs": Column(label="pairs"),
}

STEPS = {
    "model": Column(label="model"),
    "rows": Column(label="rows"),
    "step_ms": Column(label="step, ms", format=".1f"),
    "rows_s": Column(label="rows/s", format=".1f"),
    "rest": Column(label="not the UNet's", format=".2%"),
    "gflop_s": Column(label="GFLOP/s", format=".1f"),
    "reach": Column(label="of a matrix product's", format=".0%"),
}
"""`rest` and `reach` are shares of 1, of each round."""


def main() -> None:
    options = _parser().parse_args()
    bundle, report = begin("engine", options)
    plain = as_diffusers_loads(options)
    report.note(f"{options.steps} steps, guidance {options.guidance}; clock: {options.clock}")
    for scheduler in options.schedulers:
        request = _request(bundle, options, scheduler)
        stock, engine = alternate(
            options.pairs, _stock(plain, request), _lone(bundle, request), clock=CLOCKS[options.clock]
        )
        ratio = statistics.median(ours / theirs for theirs, ours in zip(stock, engine, strict=True))
        a, b = statistics.median(stock), statistics.median(engine)
        report.add("lone", LONE, scheduler=scheduler, stock_s=a, engine_s=b, ratio=ratio, pairs=options.pairs)
    if options.compiled:
        _beside_compiled(report, bundle, plain, options)
    for shaped in (bundle, sd_shaped(bundle)):
        for samples in options.batches:
            report.add("steps", STEPS, **_step_row(shaped, options, samples))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: what this process computes")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each batch size")
    parser.add_argument(
        "--schedulers", nargs="*", default=["dpmpp_2m", "euler_a", "unipc"], help="of a lone request; none: none"
    )
    parser.add_argument("--compiled", action="store_true", help="also beside the stock pipeline with a compiled UNet")
    parser.add_argument(
        "--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16], help="samples of a step; none: none"
    )
    add_option(parser)
    return parser


def _request(bundle: Bundle, options: argparse.Namespace, scheduler: str, *, num_images: int = 1) -> Request:
    return Request(
        id="benchmark",
        prompt=PROMPT,
        negative_prompt="",
        width=bundle.defaults.width,
        height=bundle.defaults.height,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        scheduler=scheduler,
        seed=7,
        num_images=num_images,
    )


def alternate(
    pairs: int, *ways: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each way, one list each. The order turns round with every pair; a first round is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for pair in range(-1, pairs):
        turns = list(enumerate(ways))
        for index, way in turns if pair % 2 else reversed(turns):
            started = clock()
            way()
            if pair >= 0:
                seconds[index].append(clock() - started)
    return seconds


def _beside_compiled(report: Report, bundle: Bundle, plain: Bundle, options: argparse.Namespace) -> None:
    """The stock pipeline as diffusers' own page on speed compiles it, for the one size that it is asked for."""
    unet = torch.compile(copy.deepcopy(plain.unet), fullgraph=True)
    compiled = dataclasses.replace(plain, unet=unet)
    for scheduler in options.schedulers:
        request = _request(bundle, options, scheduler)
        ways = _stock(compiled, request), _lone(bundle, request), _lone(bundle, request, compile="on")
        stock, *engines = alternate(options.pairs, *ways, clock=CLOCKS[options.clock])
        ratios = [statistics.median(map(operator.truediv, ours, stock)) for ours in engines]
        seconds = dict(
            zip(("stock_s", "engine_s", "compiled_s"), map(statistics.median, (stock, *engines)), strict=True)
        )
        cells = {"scheduler": scheduler, "ratio": ratios[0], "compiled_ratio": ratios[1], "pairs": options.pairs}
        report.add("compiled", COMPILED, **seconds, **cells)


def _lone(bundle: Bundle, request: Request, *, compile: Compile = "off") -> Callable[[], object]:
    # As few seats as there are sizes to compile.
    engine = Engine(family_of(bundle), compile="on", seats=1) if compile == "on" else Engine(family_of(bundle))
    if compile == "on":
        engine.warm_up()

    def draw() -> None:
        engine.submit(request)
        while not engine.idle:
            last = engine.step()[-1]
        assert isinstance(last, Finished), last

    return draw


def _stock(bundle: Bundle, request: Request) -> Callable[[], object]:
    pipeline = stock_pipeline(bundle, request.scheduler)
    return lambda: pipeline(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    )


def _step_row(bundle: Bundle, options: argparse.Namespace, samples: int) -> dict[str, Any]:
    """Of guided samples, two rows each; the VAE is left out. Ratios are of each round, since machines are noisy."""
    free = dataclasses.replace(bundle, unet=FreeUnet(bundle.unet.config))
    ways = (_stepper(bundle, options, samples), _stepper(free, options, samples), _product(bundle))
    whole, rest, product = alternate(options.rounds, *ways, clock=CLOCKS[options.clock])
    costs, rows = Engine(family_of(bundle)).costs, 2 * samples
    operations = rows * costs.row(costs.native)
    step = statistics.median(whole)
    share = statistics.median(own / all_of_it for own, all_of_it in zip(rest, whole, strict=True))
    reach = statistics.median(operations / a * b / PRODUCT_FLOPS for a, b in zip(whole, product, strict=True))
    return {
        "model": f"{bundle.name}, {bundle.defaults.width} pixels",
        "rows": rows,
        "step_ms": step * 1e3,
        "rows_s": rows / step,
        "rest": share,
        "gflop_s": operations / step / 1e9,
        "reach": reach,
    }


class FreeUnet:
    """Costs nothing: what is left of a step is the engine's own, on the host and on the device."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, x: torch.Tensor, *args: Any, **options: Any) -> tuple[torch.Tensor]:
        return (x,)


def _stepper(bundle: Bundle, options: argparse.Namespace, samples: int) -> Callable[[], None]:
    """Takes one step of a batch that does not end, and waits for it."""
    return stepper(family_of(bundle), [_request(bundle, options, options.schedulers[0], num_images=samples)], samples)


def stepper(family: Family, requests: Sequence[Request], samples: int) -> Callable[[], None]:
    """Takes one step of a batch of these requests, which does not end, and waits for it. `samples`: how many there
    are."""
    engine = Engine(family, seats=samples)
    for request in requests:
        engine.submit(request.model_copy(update={"num_inference_steps": ENDLESS}))
    while not all(job.is_ready for job in engine._jobs.all()):
        time.sleep(0.01)

    def step() -> None:
        engine.step()
        if family.device.type == "cuda":
            torch.cuda.synchronize(family.device)

    for _ in range(3):
        step()
    assert engine.last_batch == samples
    return step


def _product(bundle: Bundle) -> Callable[[], None]:
    """A square matrix product in the model's type: what this chip can do, as far as a user sees it."""
    a, b = (torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=bundle.device, dtype=bundle.dtype) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if bundle.device.type == "cuda":
            torch.cuda.synchronize(bundle.device)

    return product


def sd_shaped(bundle: Bundle) -> Bundle:
    """Random weights in the layout of Stable Diffusion 1.x: on a GPU in full size at 64 x 64 latents, on a CPU a fifth
    of its width at 32 x 32.

    As far as text and VAE go it remains the given model: their output is not looked at.
    """
    torch.manual_seed(0)
    size, widths = (64, (320, 640, 1280, 1280)) if bundle.device.type == "cuda" else (32, (64, 128, 256, 256))
    unet = diffusers.UNet2DConditionModel(
        sample_size=size,
        block_out_channels=widths,
        cross_attention_dim=bundle.unet.config.cross_attention_dim,
        in_channels=bundle.latent_channels,
        out_channels=bundle.latent_channels,
    )
    with quiet_libraries():
        unet = unet.to(bundle.device, bundle.dtype).eval().requires_grad_(False)
    side = size * bundle.vae_scale_factor
    defaults = bundle.defaults.model_copy(update={"width": side, "height": side})
    return dataclasses.replace(bundle, name="UNet in the shape of SD 1.x", unet=unet, defaults=defaults)


def begin(benchmark: str, options: argparse.Namespace) -> tuple[Bundle, Report]:
    """The model that the options name, on as many threads as they say, and the report of what it does."""
    if options.threads:
        torch.set_num_threads(options.threads)
    bundle = load(options.model, device=options.device, dtype=options.dtype)
    return bundle, report_of(benchmark, options, bundle)


def as_diffusers_loads(options: argparse.Namespace) -> Bundle:
    """The same model for the rival: its weights as they lie in memory when nobody asks for another layout."""
    return load(options.model, device=options.device, dtype=options.dtype, channels_last="off")


def report_of(benchmark: str, options: argparse.Namespace, bundle: Bundle) -> Report:
    """Of a benchmark that computes in this process with `bundle`."""
    on_gpu = bundle.device.type == "cuda"
    report = Report(benchmark, options.json, gpu=torch.cuda.get_device_name(bundle.device) if on_gpu else None)
    report.note(f"{bundle.name} in {bundle.dtype}, {torch.get_num_threads()} threads")
    return report


if __name__ == "__main__":
    main()
