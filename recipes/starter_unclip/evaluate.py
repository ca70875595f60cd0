"""Examine the model by rules on pixels: `python -m recipes.starter_unclip.evaluate`, on combinations that training
never saw.

Four questions, each beside its ceiling, the same rules on the composed pictures after the autoencoder: does a text
through the prior become what it says, with the caption before the decoder and without; does a variation show what its
picture shows; do pictures on the way between two leave the one and come to the other; does a difference between
texts change what it names, and nothing else. Writes `evaluation.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from recipes.starter import exam, rules, sprites
from recipes.starter.captions import plain
from recipes.starter.compose import Composer, pack
from recipes.starter.plan import Plan
from recipes.starter.templates import Templates
from recipes.starter.words import COLOURS, SHAPES
from recipes.starter_unclip.drawing import Drawing, Picture
from worker.families.points import difference, slerp

SHAPE_CHECKS = ("background", "colour", "shape")
FIRST_SEED = 40_000
WAY = (0.0, 0.25, 0.5, 0.75, 1.0)
DIFFERENCE = 0.4
"""How far a difference is followed; the paper's figure 5 goes up to a quarter or a half."""


class Examination:
    """The model, the plans that are asked, and the experts."""

    def __init__(self, drawing: Drawing, composer: Composer, objects: Sequence[str] | None = None) -> None:
        """`objects` are asked for, and told apart; all that have a sprite by default."""
        self.drawing, self.composer = drawing, composer
        self.objects = objects or [name for name in composer.sprites.names if name not in SHAPES]

    @cached_property
    def templates(self) -> Templates:
        """A second of a core for each object."""
        return Templates(self.composer, self.objects)

    def plans(self, category: str, count: int, seed: int = 0) -> list[Plan]:
        return exam.plans(category, count, seed=seed, objects=self.objects)

    def composed(self, plans: Sequence[Plan]) -> list[Picture]:
        """The plans as true pictures."""
        uniform = np.random.default_rng(5).random((len(plans), 2), dtype=np.float32)
        pictures = self.composer.draw(pack(plans, self.composer.sprites.names, uniform))
        return list((pictures * 255).round().byte().permute(0, 2, 3, 1).numpy())

    def kept(self, pictures: Sequence[Picture], plans: Sequence[Plan]) -> dict[str, float]:
        """The share of the pictures that show what their plans say, by check."""
        passed: dict[str, list[bool]] = {
            "background": [rules.background(*pair) for pair in self._pairs(pictures, plans)]
        }
        if plans[0].things[0].is_shape:
            passed["colour"] = [rules.colour(*pair) for pair in self._pairs(pictures, plans)]
            passed["shape"] = [rules.shape(*pair) for pair in self._pairs(pictures, plans)]
            passed["count"] = [rules.count(*pair) for pair in self._pairs(pictures, plans)]
        else:
            passed["object by template"] = [
                self.templates.nearest(picture) == plan.things[0].name for picture, plan in self._pairs(pictures, plans)
            ]
        if plans[0].position:
            passed["position"] = [rules.CHECKS["position"](*pair) for pair in self._pairs(pictures, plans)]
        passed["all of these"] = [all(row) for row in zip(*passed.values(), strict=True)]
        return {check: _share(values) for check, values in passed.items()}

    def worn(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Through the autoencoder and back."""
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            vae = self.drawing.pipe.vae
            decoded = vae.decode(vae.encode(pixels).latents).sample
        return list(decoded.add(1).mul(127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy())

    def texts(self, plans: Sequence[Plan], *, prior_guidance: float, said: bool) -> dict[str, float]:
        """Text through the prior to a picture; `said`: the decoder is told the caption too, as stock does."""
        prompts, seeds = [plain(plan) for plan in plans], range(FIRST_SEED, FIRST_SEED + len(plans))
        vectors = self.drawing.from_prior(prompts, seeds, guidance=prior_guidance)
        return self.kept(self.drawing.draw(vectors, seeds, prompts=prompts if said else None), plans)

    def variations(self, plans: Sequence[Plan]) -> dict[str, float]:
        vectors = self.drawing.vectors_of(self.composed(plans))
        return self.kept(self.drawing.draw(vectors, range(FIRST_SEED, FIRST_SEED + len(plans))), plans)

    def ways(self, plans: Sequence[Plan]) -> dict[str, float]:
        """From each plan's picture to the next one's; one seed for a way.

        `monotone`: the share of the steps of all ways after which the picture is closer to the end than before, less
        close to the beginning, by the scorer's cosines of the drawn pictures.
        """
        ends = self.drawing.vectors_of(self.composed(plans))
        closer, away = [], []
        for number in range(0, len(plans) - 1, 2):
            first, last = ends[number], ends[number + 1]
            points = torch.stack([slerp(first, last, at) for at in WAY])
            drawn = self.drawing.vectors_of(self.drawing.draw(points, [FIRST_SEED + number] * len(WAY)))
            closer += _rises(F.cosine_similarity(drawn, last[None]))
            away += _rises(-F.cosine_similarity(drawn, first[None]))
        return {"closer to the end": _share(closer), "away from the beginning": _share(away)}

    def differences(self, plans: Sequence[Plan]) -> dict[str, float]:
        """Each picture's thing in another colour that is not the background's: is the new one there, and the rest?"""
        others = [_recoloured(plan) for plan in plans]
        before, after = (self.drawing.text_vectors([plain(plan) for plan in side]) for side in (plans, others))
        vectors = self.drawing.vectors_of(self.composed(plans))
        moved = [
            slerp(vector, vector.norm() * difference(old, new), DIFFERENCE)
            for vector, old, new in zip(vectors, before, after, strict=True)
        ]
        drawn = self.drawing.draw(torch.stack(moved), range(FIRST_SEED, FIRST_SEED + len(plans)))
        return self.kept(drawn, others)

    @staticmethod
    def _pairs(pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[tuple[Picture, Plan]]:
        return list(zip(pictures, plans, strict=True))


def _recoloured(plan: Plan) -> Plan:
    """The thing in the colour that is two further on in the list, or three if that is the background's."""
    names = list(COLOURS)
    thing = plan.things[0]
    assert thing.colour is not None, "only things with a colour are asked for; this is a bug."
    place = names.index(thing.colour)
    [colour, *_] = [name for name in (names[place - 2], names[place - 3]) if name != plan.background]
    return replace(plan, things=(replace(thing, colour=colour, rgb=COLOURS[colour]),))


def _rises(values: torch.Tensor) -> list[bool]:
    return [bool(after > before) for before, after in itertools.pairwise(values)]


def _share(passed: Sequence[bool]) -> float:
    return round(sum(passed) / len(passed), 3)


def evaluate(examination: Examination, count: int, prior_guidance: float) -> dict[str, Any]:
    plans = examination.plans
    shapes, objects = plans("shape", count), plans("object", count)
    places, counts = plans("position", max(1, count // 2)), plans("count", max(1, count // 2))
    asked: dict[str, Callable[[], dict[str, float]]] = {
        "text, prior and caption": lambda: examination.texts(shapes, prior_guidance=prior_guidance, said=True),
        "text, prior alone": lambda: examination.texts(shapes, prior_guidance=prior_guidance, said=False),
        "objects: text, prior and caption": lambda: examination.texts(
            objects, prior_guidance=prior_guidance, said=True
        ),
        "variations of shapes": lambda: examination.variations(shapes),
        "variations of objects": lambda: examination.variations(objects),
        "variations of places": lambda: examination.variations(places),
        "variations of counts": lambda: examination.variations(counts),
        "ways": lambda: examination.ways(shapes[: max(2, count // 2)]),
        "differences of colour": lambda: examination.differences(shapes),
        "ceiling of shapes": lambda: examination.kept(examination.worn(examination.composed(shapes)), shapes),
        "ceiling of objects": lambda: examination.kept(examination.worn(examination.composed(objects)), objects),
    }
    found: dict[str, Any] = {"prompts": count, "prior_guidance_scale": prior_guidance}
    for name, ask in asked.items():
        found[name] = ask()
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"), help="has sprites.npz")
    parser.add_argument("--whole", type=Path, help="the whole folder; default: WORK/whole")
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    parser.add_argument("--prompts", type=int, default=60, help="of shapes, and of objects")
    parser.add_argument("--objects", nargs="+", help="names of sprites; default: all. Each costs a second")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--prior-guidance", type=float, default=1.0)
    options = parser.parse_args(arguments)
    drawing = Drawing(
        options.whole or options.work / "whole", options.scorer, steps=options.steps, guidance=options.guidance
    )
    composer = Composer(sprites.load(options.work / "sprites.npz"), variations=2)
    examination = Examination(drawing, composer, options.objects)
    found = evaluate(examination, options.prompts, options.prior_guidance)
    found |= {"steps": options.steps, "guidance_scale": options.guidance, "objects": len(examination.objects)}
    (options.work / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
