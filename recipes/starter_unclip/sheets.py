"""Figures 3, 4 and 5 of the unCLIP paper with the bundled model: `python -m recipes.starter_unclip.sheets`.

Variations of pictures; ways between two pictures, all with one seed; and text differences followed from a picture
(Ramesh et al. 2022, arXiv 2204.06125). The pictures that they begin with are composed, of combinations that training
never saw; none is chosen. Writes one WebP a figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.starter import sprites
from recipes.starter.captions import plain
from recipes.starter.compose import Composer
from recipes.starter.words import COLOURS
from recipes.starter_unclip.drawing import Drawing, Picture
from recipes.starter_unclip.evaluate import WAY, Examination
from worker.families.points import difference, slerp

FIRST_SEED = 300
DISTANCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
GAP = 4
"""Pixels between two pictures."""


def variations(examination: Examination, count: int, each: int) -> list[list[Picture]]:
    """A row for each picture: itself, then what was drawn from its vector with different seeds."""
    plans = [*examination.plans("shape", count - count // 3), *examination.plans("object", count // 3)]
    given = examination.composed(plans)
    vectors = examination.drawing.vectors_of(given).repeat_interleave(each, 0)
    drawn = examination.drawing.draw(vectors, list(range(FIRST_SEED, FIRST_SEED + each)) * len(plans))
    return [[picture, *drawn[row * each : (row + 1) * each]] for row, picture in enumerate(given)]


def ways(examination: Examination, count: int) -> list[list[Picture]]:
    """A row for each way: the first picture, the points between, the last picture."""
    given = examination.composed(examination.plans("shape", 2 * count, seed=1))
    vectors = examination.drawing.vectors_of(given)
    rows = []
    for row in range(count):
        first, last = vectors[2 * row], vectors[2 * row + 1]
        points = torch.stack([slerp(first, last, at) for at in WAY])
        drawn = examination.drawing.draw(points, [FIRST_SEED + row] * len(WAY))
        rows.append([given[2 * row], *drawn, given[2 * row + 1]])
    return rows


def differences(examination: Examination, count: int) -> list[list[Picture]]:
    """A row for each picture: itself, then further and further towards the thing in another colour."""
    plans = examination.plans("shape", count, seed=2)
    given = examination.composed(plans)
    rows = []
    for row, (plan, vector) in enumerate(zip(plans, examination.drawing.vectors_of(given), strict=True)):
        thing = plan.things[0]
        colour = next(name for name in COLOURS if name not in (thing.colour, plan.background))
        other = replace(plan, things=(replace(thing, colour=colour),))
        before, after = examination.drawing.text_vectors([plain(plan), plain(other)])
        way = vector.norm() * difference(before, after)
        points = torch.stack([slerp(vector, way, at) for at in DISTANCES])
        rows.append([given[row], *examination.drawing.draw(points, [FIRST_SEED + row] * len(DISTANCES))])
    return rows


def save(rows: Sequence[Sequence[Picture]], path: Path) -> None:
    """The pictures in a grid."""
    side = rows[0][0].shape[0] + GAP
    sheet = Image.new("RGB", (len(rows[0]) * side - GAP, len(rows) * side - GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(np.asarray(picture)), (column * side, row * side))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=82)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"), help="has sprites.npz")
    parser.add_argument("--whole", type=Path, help="the whole folder; default: WORK/whole")
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--rows", type=int, default=4, help="of each sheet")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args(arguments)
    drawing = Drawing(
        options.whole or options.work / "whole", options.scorer, steps=options.steps, guidance=options.guidance
    )
    examination = Examination(drawing, Composer(sprites.load(options.work / "sprites.npz"), variations=2))
    save(variations(examination, options.rows, 4), options.out / "starter-unclip-variations.webp")
    save(ways(examination, options.rows), options.out / "starter-unclip-ways.webp")
    save(differences(examination, options.rows), options.out / "starter-unclip-differences.webp")


if __name__ == "__main__":
    main()
