"""Measure a model folder: `python -m recipes.starter.evaluate --model models/starter`.

Draws the examination's prompts, asks rules, templates, judge and scorer, and writes `evaluation.json` and a contact
sheet. Every share stands beside its ceiling: the same rules on composed pictures, which are right, sent through the
same VAE. Where a ceiling is below 1, that much of the error is the rule's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from recipes.starter import exam, rules, sprites
from recipes.starter.captions import plain
from recipes.starter.compose import Composer, pack
from recipes.starter.looks import Looks
from recipes.starter.plan import Plan
from recipes.starter.sheet import GUIDANCE, SCHEDULER, STEPS, generate, save_sheet
from recipes.starter.templates import Templates
from recipes.starter.words import COLOURS, POSITIONS, SCENES, SHAPES

Picture = NDArray[np.uint8]
FIRST_SEED = 20_000
CHANCE = {
    "background": 1 / len(COLOURS),
    "colour": 1 / len(COLOURS),
    "shape": 1 / len(SHAPES),
    "scene": 1 / len(SCENES),
    "position": 1 / (len(POSITIONS) + 1),
}
SHOWN = 4
"""Pictures of each category on the contact sheet."""


def load_pipeline(folder: Path, device: str) -> Any:
    """The stock pipeline in float32."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


class Experts:
    """Who is asked which object it is: templates always, the networks where the work folder has them."""

    def __init__(self, composer: Composer, work: Path, objects: Sequence[str]) -> None:
        self.objects = tuple(objects)
        self.templates = Templates(composer, objects)
        self.looks = Looks(work, objects) if (work / "judge.safetensors").is_file() else None

    def name(self, check: str, pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[str] | None:
        """The names that this check's expert sees; None if it is not there."""
        if check == "object_by_template":
            return [self.templates.nearest(picture) for picture in pictures]
        if self.looks is None:
            return None
        by_judge = check == "object_by_judge"
        return self.looks.objects_by_judge(pictures) if by_judge else self.looks.objects_by_scorer(pictures, plans)


def judge_all(
    checks: Sequence[str], pictures: Sequence[Picture], plans: Sequence[Plan], experts: Experts
) -> dict[str, list[bool]]:
    """For each check, whether each picture passed. Checks whose expert is missing are left out."""
    found: dict[str, list[bool]] = {}
    wanted = [plan.things[0].name for plan in plans]
    for check in checks:
        if check in rules.CHECKS:
            rule = rules.CHECKS[check]
            found[check] = [rule(picture, plan) for picture, plan in zip(pictures, plans, strict=True)]
        elif (seen := experts.name(check, pictures, plans)) is not None:
            found[check] = [name == want for name, want in zip(seen, wanted, strict=True)]
    if len(found) > 1:
        found["all of these"] = [all(row) for row in zip(*found.values(), strict=True)]
    return found


def true_pictures(pipe: Any, composer: Composer, plans: Sequence[Plan]) -> list[Picture]:
    """The plans as composed, through the pipeline's VAE and back."""
    uniform = np.random.default_rng(5).random((len(plans), 2), dtype=np.float32)
    pictures = composer.draw(pack(plans, composer.sprites.names, uniform)).to(pipe.device)
    with torch.no_grad():
        decoded = pipe.vae.decode(pipe.vae.encode(pictures * 2 - 1).latents).sample
    pixels = decoded.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def examine(
    pipe: Any, composer: Composer, experts: Experts, name: str, count: int, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Picture], list[str]]:
    """One category: its figures, its pictures and its prompts."""
    category = exam.CATEGORIES[name]
    plans = exam.plans(name, count, objects=options.objects)
    prompts = [plain(plan) for plan in plans]
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    started = time.monotonic()
    pictures = generate(
        pipe,
        prompts,
        seeds,
        width=category.width,
        height=category.height,
        steps=options.steps,
        guidance=options.guidance,
        rows=options.rows,
    )
    seconds = time.monotonic() - started
    ours = judge_all(category.checks, pictures, plans, experts)
    composed = true_pictures(pipe, composer, plans)
    true = judge_all(category.checks, composed, plans, experts)
    chance = CHANCE | {check: 1 / len(options.objects) for check in exam.OBJECT_CHECKS}
    figures: dict[str, Any] = {"prompts": count, "seconds": round(seconds, 1)}
    figures["checks"] = {
        check: {"right": share(passed), "ceiling": share(true[check]), "chance": _rounded(chance.get(check))}
        for check, passed in ours.items()
    }
    if experts.looks:
        figures["score"] = round(sum(experts.looks.scorer.scores(pictures, prompts)) / count, 3)
        told = {"right": pictures, "ceiling": composed}
        figures["told_apart"] = {which: share(experts.looks.told_apart(seen, plans)) for which, seen in told.items()}
    return figures, pictures, prompts


def share(passed: Sequence[bool]) -> float:
    return round(sum(passed) / len(passed), 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def evaluate(pipe: Any, composer: Composer, experts: Experts, options: argparse.Namespace) -> dict[str, Any]:
    """All chosen categories; writes `evaluation.json` and `contact-sheet.png` into the `out` folder."""
    result: dict[str, Any] = {
        "scheduler": SCHEDULER,
        "steps": options.steps,
        "guidance": options.guidance,
        "objects": len(options.objects),
    }
    result["categories"] = {}
    pictures: list[Picture] = []
    words: list[str] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.categories:
        count = max(1, round(exam.CATEGORIES[name].share * options.prompts))
        figures, drawn, prompts = examine(pipe, composer, experts, name, count, options)
        result["categories"][name] = figures
        pictures += drawn[:SHOWN]
        words += prompts[:SHOWN]
        print(f"{name}: {json.dumps(figures)}", flush=True)
        (options.out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    save_sheet(pictures, words, options.out / "contact-sheet.png", columns=2 * SHOWN)
    return result


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="has sprites, judge and scorer")
    parser.add_argument("--model", type=Path, help="default: WORK/model")
    parser.add_argument("--out", type=Path, help="default: WORK")
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--rows", type=int, default=12, help="pictures at a time")
    parser.add_argument("--categories", nargs="+", default=list(exam.CATEGORIES), choices=list(exam.CATEGORIES))
    parser.add_argument("--objects", nargs="+", help="names the model knows; default: all that have a sprite")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    options.model = options.model or options.work / "model"
    options.out = options.out or options.work
    return options


def known_objects(asked: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """The objects that are asked for, default all among `names`. ValueError for one that has no sprite."""
    objects = [name for name in names if name not in SHAPES]
    if unknown := set(asked or ()) - set(objects):
        raise ValueError(f"no sprite is called {', '.join(sorted(unknown))}; names are separated by spaces")
    return list(asked) if asked else objects


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    composer = Composer(sprites.load(options.work / "sprites.npz"), variations=16)
    try:
        options.objects = known_objects(options.objects, composer.sprites.names)
    except ValueError as error:
        sys.exit(f"evaluate: {error}")
    experts = Experts(composer, options.work, options.objects)
    evaluate(load_pipeline(options.model, options.device), composer, experts, options)


if __name__ == "__main__":
    main()
