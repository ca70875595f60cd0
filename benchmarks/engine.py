"""The engine against the stock pipeline, in one process on one machine: `python -m benchmarks.engine`.

A figure, never a gate. Prints markdown: what a lone request costs in either, taken in turns so that a busy machine
slows both, and how many rows a second the engine denoises at each batch size.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.sample import Request
from worker.models.bundle import Bundle, load
from worker.models.schedulers import for_name

PROMPT = "a red circle on a blue background"


def main() -> None:
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bundle = load(options.model, device=options.device, dtype=options.dtype)
    print(f"{_machine(bundle)}; {bundle.name}, {options.steps} steps, guidance {options.guidance}\n")
    print("| scheduler | stock pipeline, s | engine, s | engine / stock | pairs |\n|---|---|---|---|---|")
    for scheduler in options.schedulers:
        request = _request(bundle, options, scheduler)
        stock, engine = _alternate(options.pairs, _stock(bundle, request), _lone(bundle, request))
        ratio = statistics.median(ours / theirs for theirs, ours in zip(stock, engine, strict=True))
        a, b = statistics.median(stock), statistics.median(engine)
        print(f"| {scheduler} | {a:.3f} | {b:.3f} | {ratio:.3f} | {options.pairs} |", flush=True)
    print("\n| samples in the batch | rows | rows/s |\n|---|---|---|")
    for samples in options.batches:
        print(f"| {samples} | {2 * samples} | {_rows_a_second(bundle, options, samples):.1f} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--schedulers", nargs="+", default=["dpmpp_2m", "euler_a"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
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


def _alternate(pairs: int, *ways: Callable[[], object]) -> list[list[float]]:
    """Seconds of each way, one list each. The order turns round with every pair; a first round is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for pair in range(-1, pairs):
        turns = list(enumerate(ways))
        for index, way in turns if pair % 2 else reversed(turns):
            started = time.perf_counter()
            way()
            if pair >= 0:
                seconds[index].append(time.perf_counter() - started)
    return seconds


def _lone(bundle: Bundle, request: Request) -> Callable[[], object]:
    engine = Engine(bundle)

    def draw() -> None:
        engine.submit(request)
        while not engine.idle:
            last = engine.step()[-1]
        assert isinstance(last, Finished), last

    return draw


def _stock(bundle: Bundle, request: Request) -> Callable[[], object]:
    pipeline = diffusers.StableDiffusionPipeline(
        tokenizer=bundle.tokenizer,
        text_encoder=bundle.text_encoder,
        unet=bundle.unet,
        vae=bundle.vae,
        scheduler=for_name(bundle.scheduler, request.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    )


def _rows_a_second(bundle: Bundle, options: argparse.Namespace, samples: int, *, steps: int = 12) -> float:
    """Of guided samples, two rows each, after two steps to warm up; the VAE is left out."""
    engine = Engine(bundle, seats=samples)
    engine.submit(_request(bundle, options, options.schedulers[0], num_images=samples))
    engine.step()
    engine.step()
    started = time.perf_counter()
    for _ in range(steps):
        engine.step()
    return 2 * samples * steps / (time.perf_counter() - started)


def _machine(bundle: Bundle) -> str:
    on_gpu = bundle.device.type == "cuda"
    chip = torch.cuda.get_device_name(bundle.device) if on_gpu else f"{_cpu()}, {torch.get_num_threads()} threads"
    return f"{chip}; {bundle.dtype}; torch {torch.__version__}, diffusers {diffusers.__version__}"


def _cpu() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
