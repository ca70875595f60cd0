"""Plans become the pictures they say."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.starter import scenery, styles
from recipes.starter.compose import Composer, pack
from recipes.starter.plan import Plan, Thing, Wishes, draw_plan
from recipes.starter.words import COLOURS, SCENES

RED, BLUE, WHITE = COLOURS["red"], COLOURS["blue"], COLOURS["white"]


def thing(name: str = "square", cx: float = 0.5, cy: float = 0.5, size: float = 64, **other: object) -> Thing:
    values = {"colour": "red", "rgb": RED} | other
    return Thing(name=name, cx=cx, cy=cy, size=size, **values)  # type: ignore[arg-type]


def plan(*things: Thing, width: int = 128, height: int = 128, background: str = "blue", **other: object) -> Plan:
    rgb = COLOURS.get(background)
    values = {"mode": "single", "background_rgb": rgb} | other
    return Plan(width=width, height=height, things=things, background=background, **values)  # type: ignore[arg-type]


def draw(composer: Composer, *plans: Plan, at: float = 0.5) -> torch.Tensor:
    """Pictures in 0..255."""
    uniform = np.full((len(plans), 2), at, np.float32)
    return composer.draw(pack(plans, composer.sprites.names, uniform)) * 255


def pixel(picture: torch.Tensor, x: float, y: float) -> tuple[int, ...]:
    """The colour at shares of width and height."""
    height, width = picture.shape[-2:]
    return tuple(round(float(value)) for value in picture[:, int(y * height), int(x * width)])


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128), (128, 192), (256, 256)])
def test_a_thing_lies_where_it_was_planned(composer: Composer, width: int, height: int) -> None:
    [picture] = draw(composer, plan(thing(cx=0.3, cy=0.7, size=50), width=width, height=height))
    assert pixel(picture, 0.3, 0.7) == RED
    assert pixel(picture, 0.7, 0.3) == BLUE
    red = (picture[0] > 130).nonzero().float().mean(0)
    assert red.tolist() == pytest.approx([0.7 * height - 0.5, 0.3 * width - 0.5], abs=0.6)
    assert int((picture[0] > 130).sum()) == pytest.approx((0.82 * 50) ** 2, rel=0.06)


def test_later_things_lie_over_earlier_ones(composer: Composer) -> None:
    below, above = thing(size=100), thing(size=40, colour="white", rgb=WHITE)
    pictures = draw(composer, plan(below, above), plan(above, below))
    assert [pixel(picture, 0.5, 0.5) for picture in pictures] == [WHITE, RED]


def test_company_changes_nothing(composer: Composer) -> None:
    chance = random.Random(0)
    objects = tuple(name for name in composer.sprites.names if name in Wishes().objects)
    plans = [draw_plan(chance, 128, 128, Wishes(objects=objects)) for _ in range(12)]
    together = draw(composer, *plans)
    alone = torch.cat([draw(composer, one) for one in plans])
    assert (together - alone).abs().max() < 0.01


def test_a_mirrored_thing_is_the_mirror_image(composer: Composer) -> None:
    icon = thing("frog", size=128, colour=None, rgb=None)
    straight, mirrored = draw(composer, plan(icon), plan(replace(icon, flip=True)))
    assert (straight - mirrored.flip(-1)).abs().max() < 0.01
    assert (straight - mirrored).abs().max() > 50


def test_a_turned_thing_keeps_its_size_on_any_canvas(composer: Composer) -> None:
    square = thing(size=60)
    straight, turned = draw(composer, *(plan(replace(square, angle=a), width=192) for a in (0.0, 45.0)))
    areas = [int((picture[0] > 130).sum()) for picture in (straight, turned)]
    assert areas[1] == pytest.approx(areas[0], rel=0.06)
    assert pixel(turned, 0.5, 0.5 - 0.25) == RED


def test_a_recoloured_thing_is_mostly_its_colour(composer: Composer) -> None:
    tinted = thing("frog", size=120, colour="purple", rgb=COLOURS["purple"])
    [picture] = draw(composer, plan(tinted, background="white"))
    inside = picture[:, 24:100, 20:106].reshape(3, -1)
    assert inside.median(1).values.tolist() == pytest.approx(COLOURS["purple"], abs=2)


def test_small_things_are_averaged_not_skipped(composer: Composer) -> None:
    """A sprite sampled at every eighth pixel would lose a tenth of its area here and there."""
    for size in (20, 31, 47):
        [picture] = draw(composer, plan(thing("ring", size=size)))
        coverage = ((picture[0] - BLUE[0]) / (RED[0] - BLUE[0])).sum().item()
        outer, inner = 0.44 * size, 0.22 * size
        assert coverage == pytest.approx(np.pi * (outer**2 - inner**2), rel=0.06)


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_fill_any_canvas_and_differ_in_their_variations(composer: Composer, scene: str) -> None:
    speck = thing(size=8)
    for width, height in ((128, 128), (192, 128), (128, 192)):
        one = draw(composer, plan(speck, width=width, height=height, background=scene), at=0.1)
        two = draw(composer, plan(speck, width=width, height=height, background=scene), at=0.9)
        assert one.shape == (1, 3, height, width)
        assert (one - two).abs().mean() > 0.3


def test_horizons_stay_where_they_are_on_a_tall_canvas(composer: Composer) -> None:
    """The window has the scene's full height."""
    sprite, bank = thing(size=8, cx=0.9, cy=0.9), composer.scenery[list(SCENES).index("desert"), 1].float()
    [picture] = draw(composer, plan(sprite, width=128, height=192, background="desert"), at=0.5)
    column = bank[:, :, scenery.WIDTH // 2]
    rows = (torch.arange(192) + 0.5) / 192 * scenery.HEIGHT
    assert (picture[:, :, 64] - column[:, rows.long()]).abs().mean() < 3


def test_styles_are_applied_to_their_rows_only(composer: Composer) -> None:
    base = plan(thing(size=80))
    plain, bw, pixelled, sketch = draw(composer, *(replace(base, style=s) for s in (None, "bw", "pixel", "sketch")))
    assert (bw.amax(0) - bw.amin(0)).max() < 0.01
    cells = pixelled.reshape(3, 32, styles.CELL, 32, styles.CELL)
    assert (cells.amax((2, 4)) - cells.amin((2, 4))).max() < 0.01
    assert pixel(sketch, 0.5, 0.5)[0] > 200
    assert sketch[0].min() < 100
    assert pixel(plain, 0.5, 0.5) == RED


def test_plans_of_two_canvases_are_refused(composer: Composer) -> None:
    with pytest.raises(ValueError, match="different canvases"):
        draw(composer, plan(thing()), plan(thing(), width=256))
