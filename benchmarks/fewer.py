"""What fewer evaluations save, in one process on one machine: `python -m benchmarks.fewer`.

A figure, never a gate. Prints markdown: pictures a second of the same batch of guided requests without and with
`guidance_end` and `cache`, in turns, so that a busy machine slows all of them. `--clock cpu` counts this process' own
time. The small model beside it is the given one; the other one has the shape of Stable Diffusion's UNet, at a fraction
of its width. Pictures are decoded by neither: what is looked at is denoising.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.contract.messages.deep_cache import Cache
from benchmarks.engine import PROMPT, begin, sd_shaped
from benchmarks.report import Column, add_option
from worker.engine.engine import Engine
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guidance_end 0.7": {"guidance_end": 0.7},
    "guidance_end 0.5": {"guidance_end": 0.5},
    "cache 2": {"cache": Cache(interval=2)},
    "cache 3": {"cache": Cache(interval=3)},
    "cache 5": {"cache": Cache(interval=5)},
    "cache 3, guidance_end 0.5": {"cache": Cache(interval=3), "guidance_end": 0.5},
}


STEPS = {
    "model": Column(label="model"),
    "way": Column(label="way"),
    "ms": Column(label="ms a picture's step", format=".2f"),
    "ratio": Column(label="plain / this", format=".2f"),
}


def main() -> None:
    options = _parser().parse_args()
    model, report = begin("fewer", options)
    report.note(f"{options.samples} guided pictures at once, {options.steps} steps, {options.clock} time")
    for shape in options.shapes:
        bundle = sd_shaped(model) if shape == "sd" else model
        seconds = measured(bundle, options)
        for way, each in seconds.items():
            own = statistics.median(each) / options.samples / options.steps
            ratio = statistics.median(plain / mine for plain, mine in zip(seconds[options.ways[0]], each, strict=True))
            shaped = f"{bundle.name}, {bundle.defaults.width} pixels"
            report.add("steps", STEPS, model=shaped, way=way, ms=1e3 * own, ratio=ratio)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4, help="pictures at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="the first is what others are compared with"
    )
    parser.add_argument("--shapes", nargs="+", default=["model", "sd"], choices=["model", "sd"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    add_option(parser)
    return parser


def measured(bundle: Bundle, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds that each way takes, once in each round."""
    ways = {way: denoising(bundle, _requests(bundle, options, WAYS[way])) for way in options.ways}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    clock = CLOCKS[options.clock]
    for _ in range(options.rounds):
        for way, draw in ways.items():
            started = clock()
            draw()
            taken[way].append(clock() - started)
    return taken


def denoising(bundle: Bundle, requests: Sequence[Request]) -> Callable[[], None]:
    """Draws all of them together, up to their last evaluation, and lets them go."""
    engine = Engine(family_of(bundle), seats=len(requests))

    def draw() -> None:
        for request in requests:
            engine.submit(request)
        while not all(job.is_ready for job in engine._jobs.all()):
            time.sleep(0.01)
        last = requests[0].num_inference_steps - 1
        while not engine._seating.seated or min(each.evaluation for each in engine._seating.seated) < last:
            engine.step()
        for request in requests:
            engine.cancel(request.id)
        while not engine.idle:
            engine.step()

    return draw


def _requests(bundle: Bundle, options: argparse.Namespace, changes: dict[str, Any]) -> list[Request]:
    plain: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": "",
        "width": bundle.defaults.width,
        "height": bundle.defaults.height,
        "num_inference_steps": options.steps + 1,
        "guidance_scale": 4.0,
        "scheduler": "ddim",
        "num_images": 1,
    }
    return [Request(id=str(k), seed=k, **plain | changes) for k in range(options.samples)]


if __name__ == "__main__":
    main()
