"""Captions with one mistake: each is a lie about its picture, and says the rest in the same words."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from recipes.starter import mistakes
from recipes.starter.captions import plain
from recipes.starter.mistakes import MISTAKES, said
from recipes.starter.plan import Plan, Wishes, draw_plan
from recipes.starter.train_judges import contrast
from recipes.starter.words import OBJECTS, SHAPES

NAMES = (*OBJECTS, *SHAPES)


def plans(count: int, **wishes: object) -> list[Plan]:
    chance = random.Random(1)
    return [draw_plan(chance, 128, 128, replace(Wishes(), **wishes)) for _ in range(count)]  # type: ignore[arg-type]


def test_captions_with_mistakes_are_never_the_true_one() -> None:
    chance = random.Random(2)
    for plan in plans(500):
        true, wrong = said(chance, plan, NAMES, 3)
        assert len(wrong) == 3
        assert true not in wrong


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_every_kind_of_mistake_is_made_and_changes_what_is_said(mistake: mistakes.Mistake) -> None:
    chance = random.Random(3)
    made = [(plan, wrong) for plan in plans(400, style_share=0.5) if (wrong := mistake(chance, plan, NAMES))]
    changed = [plain(wrong) != plain(plan) for plan, wrong in made]
    assert sum(changed) > 10
    assert all(changed) or mistake.__name__ == "_whose_colour", "two things may have one colour"


def test_where_no_colour_can_be_seen_none_is_mistaken() -> None:
    chance = random.Random(4)
    for plan in plans(200, style_share=1.0):
        if plan.style == "pixel":
            continue
        for mistake in (mistakes._colour, mistakes._whose_colour, mistakes._background):
            assert mistake(chance, plan, NAMES) is None


def test_a_mistake_about_a_picture_counts_for_that_picture_only() -> None:
    """Two pictures, two captions, one mistake about each: what is said of the other may be true here."""
    own = torch.eye(2)
    right = torch.tensor([[9.0, 0.0, 0.0, 9.0], [0.0, 9.0, 9.0, 0.0]])
    taken_in = torch.tensor([[9.0, 0.0, 9.0, 0.0], [0.0, 9.0, 0.0, 9.0]])
    assert contrast(right, own) < 0.001
    assert contrast(taken_in, own) > 0.3
