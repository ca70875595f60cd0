"""A step in bfloat16 beside one in float32, in turns: whether DARKROOM_DTYPE=bfloat16 is worth it on this processor.

`python -m benchmarks.bfloat16 --clock cpu --threads 1`. Guided samples, two rows each. Where the processor has no
instructions for bfloat16, torch computes it by way of float32.
"""

from __future__ import annotations

import argparse
import operator
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import CLOCKS, _request, alternate, begin, sd_shaped, stepper
from benchmarks.report import Column, add_option
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.place import multiplies_bfloat16
from worker.models.quiet import quiet_libraries

STEPS = {
    "model": Column(label="model"),
    "rows": Column(label="rows"),
    "float32_ms": Column(label="float32, ms", format=".1f"),
    "bfloat16_ms": Column(label="bfloat16, ms", format=".1f"),
    "ratio": Column(label="bfloat16 / float32, median of pairs", format=".2f"),
}

PICTURES = {
    "scheduler": Column(label="scheduler"),
    "mean": Column(label="the pictures differ in the mean by, of 255", format=".2f"),
}


def main() -> None:
    options = _parser().parse_args()
    bundle, report = begin("bfloat16", options)
    halved = load(options.model, device=options.device, dtype="bfloat16")
    has = "has" if multiplies_bfloat16() else "has no"
    report.note(f"the processor {has} instructions for bfloat16; clock: {options.clock}")
    for plain, half in ((bundle, halved), (sd_shaped(bundle), sd_shaped(halved))):
        for samples in options.batches:
            report.add("steps", STEPS, **_step_row(plain, half, options, samples))
    for scheduler in options.schedulers:
        told, other = (_pixels(each, options, scheduler) for each in (bundle, halved))
        report.add("pictures", PICTURES, scheduler=scheduler, mean=float(np.abs(told - other).mean()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall", help="cpu: what this process computes")
    parser.add_argument("--pairs", type=int, default=9, help="steps of each type and batch size")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="samples of a step")
    parser.add_argument("--steps", type=int, default=20, help="of the pictures that are compared")
    parser.add_argument("--schedulers", nargs="+", default=["euler_a", "dpmpp_2m"])
    parser.set_defaults(device="cpu", dtype="float32", guidance=4.0)
    add_option(parser)
    return parser


def _step_row(plain: Bundle, half: Bundle, options: argparse.Namespace, samples: int) -> dict[str, Any]:
    asked = [_request(plain, options, options.schedulers[0], num_images=samples)]
    ways = [stepper(family_of(each), asked, samples) for each in (plain, half)]
    single, halves = alternate(options.pairs, *ways, clock=CLOCKS[options.clock])
    return {
        "model": f"{plain.name}, {plain.defaults.width} pixels",
        "rows": 2 * samples,
        "float32_ms": statistics.median(single) * 1e3,
        "bfloat16_ms": statistics.median(halves) * 1e3,
        "ratio": statistics.median(map(operator.truediv, halves, single)),
    }


def _pixels(bundle: Bundle, options: argparse.Namespace, scheduler: str) -> np.ndarray:
    """Four pictures, of four seeds."""
    engine = Engine(family_of(bundle))
    engine.submit(_request(bundle, options, scheduler, num_images=4))
    while not engine.idle:
        last = engine.step()[-1]
    assert isinstance(last, Finished), last
    return np.stack([image.pixels for image in last.images]).astype(np.float64)


if __name__ == "__main__":
    quiet_libraries()
    main()
