"""The rules say yes to right pictures and no to wrong ones, on composed pictures whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recipes.starter import exam, rules
from recipes.starter.compose import Composer, pack
from recipes.starter.evaluate import judge_all, share
from recipes.starter.plan import LAYOUTS, Plan, Thing, Wishes, draw_plan
from recipes.starter.templates import Templates
from recipes.starter.words import COLOURS
from tests.recipes.starter.conftest import OBJECTS

Picture = NDArray[np.uint8]


def drawn(composer: Composer, plans: list[Plan]) -> list[Picture]:
    uniform = np.random.default_rng(0).random((len(plans), 2), dtype=np.float32)
    pictures = composer.draw(pack(plans, composer.sprites.names, uniform)) * 255
    return list(pictures.round().byte().permute(0, 2, 3, 1).numpy())


class NoExperts:
    """Only rules are asked."""

    def name(self, *_: object) -> None:
        return None


def shares(composer: Composer, category: str, count: int = 24) -> dict[str, float]:
    plans = exam.plans(category, count, objects=OBJECTS)
    checks = exam.CATEGORIES[category].checks
    found = judge_all(checks, drawn(composer, plans), plans, NoExperts())  # type: ignore[arg-type]
    return {check: share(passed) for check, passed in found.items()}


@pytest.mark.parametrize("category", [name for name in exam.CATEGORIES if name not in ("object", "count of objects")])
def test_rules_pass_what_is_right(composer: Composer, category: str) -> None:
    found = shares(composer, category)
    assert found, category
    assert min(found.values()) >= 0.9, found


def other(plan: Plan, chance: random.Random, **changes: object) -> Plan:
    """The plan with its first thing changed."""
    return replace(plan, things=(replace(plan.things[0], **changes), *plan.things[1:]))  # type: ignore[arg-type]


def wrong_colour(plan: Plan, chance: random.Random) -> Plan:
    colour = chance.choice([name for name in COLOURS if name not in (plan.things[0].colour, plan.background)])
    return other(plan, chance, colour=colour, rgb=COLOURS[colour])


def wrong_background(plan: Plan, chance: random.Random) -> Plan:
    colour = chance.choice([name for name in COLOURS if name not in (plan.things[0].colour, plan.background)])
    return replace(plan, background=colour, background_rgb=COLOURS[colour])


def wrong_shape(plan: Plan, chance: random.Random) -> Plan:
    names = [name for name in ("circle", "square", "triangle", "star", "heart", "cross") if name != plan.things[0].name]
    return other(plan, chance, name=chance.choice(names))


def one_less(plan: Plan, chance: random.Random) -> Plan:
    return replace(plan, things=plan.things[1:])


def another_count(plan: Plan, chance: random.Random) -> Plan:
    number = chance.choice([number for number in LAYOUTS if number != len(plan.things)])
    places = chance.choice(LAYOUTS[number])
    return replace(plan, things=tuple(replace(plan.things[0], cx=cx, cy=cy, size=38.0) for cx, cy in places))


def other_side(plan: Plan, chance: random.Random) -> Plan:
    thing = plan.things[0]
    return other(plan, chance, cx=1 - thing.cx, cy=1 - thing.cy)


def swapped_places(plan: Plan, chance: random.Random) -> Plan:
    first, second = plan.things
    return replace(plan, things=(replace(second, cx=first.cx, cy=first.cy), replace(first, cx=second.cx, cy=second.cy)))


def swapped_colours(plan: Plan, chance: random.Random) -> Plan:
    first, second = plan.things
    recoloured = (
        replace(first, colour=second.colour, rgb=second.rgb),
        replace(second, colour=first.colour, rgb=first.rgb),
    )
    return replace(plan, things=recoloured)


def without_style(plan: Plan, chance: random.Random) -> Plan:
    return replace(plan, style=None)


WRONG = {
    ("shape", "colour"): wrong_colour,
    ("shape", "background"): wrong_background,
    ("shape", "shape"): wrong_shape,
    ("256x256", "shape"): wrong_shape,
    ("count", "count"): one_less,
    ("count", "arrangement"): one_less,
    ("count of objects", "arrangement"): another_count,
    ("position", "position"): other_side,
    ("two things", "colours_bound"): swapped_colours,
    ("two things", "shapes_bound"): swapped_places,
    ("style", "style"): without_style,
}


@pytest.mark.parametrize(("category", "check"), WRONG)
def test_rules_refuse_what_is_wrong(composer: Composer, category: str, check: str) -> None:
    chance = random.Random(0)
    plans = [plan for plan in exam.plans(category, 24, objects=OBJECTS) if can_be_wrong(plan)]
    wrong = [WRONG[category, check](plan, chance) for plan in plans]
    passed = [rules.CHECKS[check](picture, plan) for picture, plan in zip(drawn(composer, wrong), plans, strict=True)]
    assert len(passed) >= 10
    assert share(passed) <= 0.1


def can_be_wrong(plan: Plan) -> bool:
    """Two things of one colour, or of one shape, are right when they are exchanged."""
    first, last = plan.things[0], plan.things[-1]
    return plan.mode != "pair" or (first.colour != last.colour and first.name != last.name)


def test_another_scene_is_refused(composer: Composer) -> None:
    plans = exam.plans("scene", 24, objects=OBJECTS)
    others = [*plans[1:], plans[0]]
    asked = [(picture, plan) for picture, plan in zip(drawn(composer, others), plans, strict=True)]
    different = [pair for pair, made in zip(asked, others, strict=True) if made.background != pair[1].background]
    assert len(different) > 10
    assert not any(rules.scene(picture, plan) for picture, plan in different)


@pytest.mark.parametrize("check", [name for name in rules.CHECKS if name not in ("background", "scene", "style")])
def test_an_empty_picture_passes_nothing(check: str) -> None:
    thing = Thing(name="circle", colour="red", rgb=COLOURS["red"], cx=0.27, cy=0.5, size=60)
    plan = Plan(
        width=128,
        height=128,
        mode="single",
        things=(thing,),
        background="white",
        background_rgb=COLOURS["white"],
        position="on the left",
        style="bw",
    )
    assert not rules.CHECKS[check](np.full((128, 128, 3), 250, np.uint8), plan)


@pytest.fixture(scope="session")
def templates(composer: Composer) -> Templates:
    return Templates(composer, OBJECTS)


def test_templates_know_every_object_on_every_background(composer: Composer, templates: Templates) -> None:
    wishes = Wishes(modes=("single",), shape_share=0, tint_share=0, scene_share=0, style_share=0)
    wishes = replace(wishes, position_share=0, size_share=0, objects=OBJECTS)
    chance = random.Random(0)
    plans = [draw_plan(chance, 128, 128, wishes) for _ in range(30)]
    names = [templates.nearest(picture) for picture in drawn(composer, plans)]
    right = [name == plan.things[0].name for name, plan in zip(names, plans, strict=True)]
    assert share(right) >= 0.95


def test_templates_see_through_noise_but_not_everything(composer: Composer, templates: Templates) -> None:
    plans = exam.plans("object", 12, objects=OBJECTS)
    chance = np.random.default_rng(0)
    noisy = [
        np.clip(picture + chance.normal(0, 25, picture.shape), 0, 255).astype(np.uint8)
        for picture in drawn(composer, plans)
    ]
    right = [templates.nearest(picture) == plan.things[0].name for picture, plan in zip(noisy, plans, strict=True)]
    wrong = [
        templates.nearest(picture) == plan.things[0].name
        for picture, plan in zip(noisy, [*plans[5:], *plans[:5]], strict=True)
    ]
    assert share(right) >= 0.9
    assert share(wrong) <= 0.4
