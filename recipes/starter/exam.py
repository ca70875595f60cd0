"""The examination: plans that training was kept from, in categories, each with what is to be checked.

Knows the sampler and the hold-out rule; knows no judge and no model. The same seed gives the same examination.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recipes.starter.plan import Plan, Wishes, draw_plan

CANDIDATES = 40


@dataclass(frozen=True, kw_only=True)
class Category:
    """`share` is of the examination's prompts. `checks` are names in `rules.CHECKS` or OBJECT_CHECKS."""

    wishes: Wishes
    checks: tuple[str, ...]
    share: float
    width: int = 128
    height: int = 128


BARE = Wishes(modes=("single",), scene_share=0, style_share=0, position_share=0, size_share=0, held_out=True)
SHAPES_ONLY = replace(BARE, shape_share=1)
OBJECTS_ONLY = replace(BARE, shape_share=0, tint_share=0)
LOOKS = ("object_by_judge", "object_by_scorer")
ALONE = ("count", "background", "colour", "shape")
"""A model that was never trained on a size fills it with several things."""

OBJECT_CHECKS = ("object_by_template", *LOOKS)

CATEGORIES: Mapping[str, Category] = {
    "shape": Category(wishes=SHAPES_ONLY, checks=("background", "colour", "shape"), share=0.16),
    "object": Category(wishes=OBJECTS_ONLY, checks=("background", "object_by_template", *LOOKS), share=0.2),
    "recoloured object": Category(wishes=replace(OBJECTS_ONLY, tint_share=1), checks=("colour", *LOOKS), share=0.1),
    "scene": Category(wishes=replace(OBJECTS_ONLY, scene_share=1), checks=("scene", *LOOKS), share=0.1),
    "count": Category(wishes=replace(SHAPES_ONLY, modes=("count",)), checks=("count", "colour", "shape"), share=0.12),
    "count of objects": Category(
        wishes=replace(OBJECTS_ONLY, modes=("count",)), checks=("count", "arrangement"), share=0.06
    ),
    "position": Category(
        wishes=replace(SHAPES_ONLY, position_share=1), checks=("position", "colour", "shape"), share=0.1
    ),
    "two things": Category(
        wishes=replace(SHAPES_ONLY, modes=("pair",)),
        checks=("count", "colours_bound", "shapes_bound"),
        share=0.1,
    ),
    "style": Category(wishes=replace(OBJECTS_ONLY, style_share=1), checks=("style",), share=0.06),
    "192x128": Category(wishes=SHAPES_ONLY, checks=ALONE, share=0.04, width=192),
    "128x192": Category(wishes=SHAPES_ONLY, checks=ALONE, share=0.04, height=192),
    "256x256": Category(wishes=SHAPES_ONLY, checks=ALONE, share=0.04, width=256, height=256),
}


def plans(name: str, count: int, *, seed: int = 0, objects: Sequence[str] | None = None) -> list[Plan]:
    """`count` plans of a category, combinations and names repeated as little as can be."""
    category = CATEGORIES[name]
    chance = random.Random(f"{seed}/{name}")
    wishes = category.wishes if objects is None else replace(category.wishes, objects=tuple(objects))
    asked: Counter[str] = Counter()
    drawn: list[Plan] = []
    for _ in range(count):
        candidates = [draw_plan(chance, category.width, category.height, wishes) for _ in range(CANDIDATES)]
        plan = min(candidates, key=lambda plan: (asked[plan.key], asked[plan.things[0].name]))
        asked.update((plan.key, plan.things[0].name))
        drawn.append(plan)
    return drawn
