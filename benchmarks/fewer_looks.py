"""What becomes of pictures with fewer evaluations: `python -m benchmarks.fewer_looks --out FOLDER`.

Draws prompts of the starter's examination by the engine, each with the same seed, without and with `guidance_end` and
`cache`. Prints markdown: the share of pictures that pass the examination's rules, the mean cosine with their prompts by
the bundled scorer, and how far they are from the pictures of the first way (PSNR). Writes a sheet, a row for each way.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.contract.messages.model_name import BUNDLED_SCORER
from benchmarks.engine import report_of
from benchmarks.fewer import WAYS
from benchmarks.report import Column, add_option
from recipes.starter import exam, rules
from recipes.starter.captions import plain
from recipes.starter.evaluate import FIRST_SEED
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.scorer import load_scorer

Picture = np.ndarray

LOOKS = {
    "way": Column(label="way"),
    "all": Column(label="pass all rules", format=".2f"),
    "rules": Column(label="rules passed", format=".3f"),
    "cosine": Column(label="cosine", format=".3f"),
    "psnr": Column(label="PSNR to the first", format=".1f"),
}


def main() -> None:
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    bundle, scorer = load(options.model, device=options.device), load_scorer(BUNDLED_SCORER)
    plans = [(name, plan) for name in options.categories for plan in exam.plans(name, options.prompts)]
    prompts = [plain(plan) for _, plan in plans]
    sheet: list[Sequence[Picture]] = []
    report = report_of("fewer_looks", options, bundle)
    steps = bundle.defaults.num_inference_steps
    report.note(f"{len(prompts)} prompts of {', '.join(options.categories)}; {steps} steps")
    for way in options.ways:
        pictures = drawn(bundle, prompts, WAYS[way], seats=options.seats)
        passed = [
            [rules.CHECKS[check](picture, plan) for check in exam.CATEGORIES[name].checks]
            for picture, (name, plan) in zip(pictures, plans, strict=True)
        ]
        sheet.append(pictures)
        report.add(
            "looks",
            LOOKS,
            way=way,
            all=sum(map(all, passed)) / len(passed),
            rules=sum(map(sum, passed)) / sum(map(len, passed)),
            cosine=sum(scorer.scores(pictures, prompts)) / len(prompts),
            psnr=mean_psnr(pictures, sheet[0]) if len(sheet) > 1 else None,
        )
        save(sheet, options.out / "fewer.png", columns=options.columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--prompts", type=int, default=24, help="of each category")
    parser.add_argument("--categories", nargs="+", default=["shape", "two things"], choices=list(by_rules()))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="the first is compared with")
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--columns", type=int, default=12, help="of the sheet")
    parser.add_argument("--out", type=Path, required=True)
    add_option(parser)
    return parser


def by_rules() -> list[str]:
    """Categories of native size that need no other judge than rules."""
    return [
        name
        for name, category in exam.CATEGORIES.items()
        if set(category.checks) <= rules.CHECKS.keys() and category.width == category.height == 128
    ]


def drawn(bundle: Bundle, prompts: Sequence[str], changes: dict[str, Any], *, seats: int) -> list[Picture]:
    """A picture [H, W, 3] of each prompt, by the model's own settings but for `changes`."""
    engine, usual = Engine(family_of(bundle), seats=seats), bundle.defaults
    for k, prompt in enumerate(prompts):
        asked: dict[str, Any] = {
            "width": usual.width,
            "height": usual.height,
            "num_inference_steps": usual.num_inference_steps,
            "guidance_scale": usual.guidance_scale,
            "scheduler": usual.scheduler,
        }
        engine.submit(
            Request(id=str(k), prompt=prompt, negative_prompt="", seed=FIRST_SEED + k, num_images=1, **asked | changes)
        )
    finished: dict[str, Picture] = {}
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Finished):
                finished[event.request_id] = event.pictures[0]
    return [finished[str(k)] for k in range(len(prompts))]


def mean_psnr(pictures: Sequence[Picture], others: Sequence[Picture]) -> float:
    return statistics.mean(psnr(one, other) for one, other in zip(pictures, others, strict=True))


def psnr(one: Picture, other: Picture) -> float:
    """In decibels; 99 for equal pictures."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))


def save(rows: Sequence[Sequence[Picture]], path: Path, *, columns: int) -> None:
    Image.fromarray(np.concatenate([np.concatenate(row[:columns], 1) for row in rows])).save(path)


if __name__ == "__main__":
    main()
