"""One picture, decided before it is drawn: which things, where, how big, in which colour, before what, in which style.

Knows the world of `words` and chance; knows neither English sentences nor pixels. The rule that keeps combinations out
of training lives here too, because training and examination draw from this same sampler.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.starter.words import COLOURS, COUNTS, OBJECTS, POSITIONS, SCENES, SHAPES, STYLES, UNCOUNTABLE, Colour

HELD_OUT_OF = 12
"""One combination in so many is never trained on."""

PATIENCE = 5000
"""Draws before the wishes are taken to be impossible."""

MODES = {"single": 0.4, "pair": 0.28, "count": 0.32}
RELATIONS = ("beside", "above")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """`cx` and `cy` are shares of width and height, `size` is the side in pixels, `angle` in degrees.

    `colour` is None for an object as its icon shows it. `rgb` is the shade of that colour in this picture.
    """

    name: str
    colour: str | None
    rgb: Colour | None
    cx: float
    cy: float
    size: float
    angle: float = 0.0
    flip: bool = False

    @property
    def is_shape(self) -> bool:
        return self.name in SHAPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`background` is a colour's name or a scene's. `relation` is said of a pair, first thing to second."""

    width: int
    height: int
    mode: str
    things: tuple[Thing, ...]
    background: str
    background_rgb: Colour | None
    relation: str | None = None
    position: str | None = None
    size: str | None = None
    style: str | None = None

    @property
    def key(self) -> str:
        """The combination, whatever its sizes, places and style: `red circle*3|blue`, `cat+blue star|grass`."""
        names = [f"{thing.colour or 'own'} {thing.name}" for thing in self.things]
        what = f"{names[0]}*{len(names)}" if self.mode == "count" else "+".join(names)
        return f"{what}|{self.background}"


def is_held_out(plan: Plan) -> bool:
    """Whether the combination belongs to the examination. A hash decides, so no list has to travel with the data."""
    return hashlib.sha256(plan.key.encode()).digest()[0] % HELD_OUT_OF == 0


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a sampler may draw. The defaults are training's mixture; the examination narrows them.

    `background` is the only one, a colour or a scene, and `colour` the only one of things that are not in their own;
    None for any.
    """

    modes: tuple[str, ...] = tuple(MODES)
    background: str | None = None
    colour: str | None = None
    objects: Sequence[str] = tuple(OBJECTS)
    shape_share: float = 0.4
    tint_share: float = 0.3
    scene_share: float = 0.35
    style_share: float = 0.28
    position_share: float = 0.35
    size_share: float = 0.2
    held_out: bool = False


def draw_plan(chance: random.Random, width: int, height: int, wishes: Wishes) -> Plan:
    """A plan on the wanted side of the hold-out rule. Raises ValueError if `wishes` leave none there."""
    for _ in range(PATIENCE):
        plan = _draw(chance, width, height, wishes)
        if is_held_out(plan) == wishes.held_out:
            return plan
    raise ValueError("No combination of these wishes is on the wanted side of the hold-out rule; allow more objects.")


def _draw(chance: random.Random, width: int, height: int, wishes: Wishes) -> Plan:
    mode = chance.choices(wishes.modes, [MODES[name] for name in wishes.modes])[0]
    scene = chance.random() < wishes.scene_share
    plain = [colour for colour in COLOURS if colour != wishes.colour]
    background = wishes.background or chance.choice(tuple(SCENES) if scene else plain)
    rgb = _shade(chance, background) if background in COLOURS else None
    style = chance.choice(tuple(STYLES)) if chance.random() < wishes.style_share else None
    side = {"single": _single, "pair": _pair, "count": _count}[mode]
    things, said = side(chance, width, height, background, wishes)
    return Plan(
        width=width,
        height=height,
        mode=mode,
        things=things,
        background=background,
        background_rgb=rgb,
        style=style,
        **said,
    )


Placed = tuple[tuple[Thing, ...], dict[str, str | None]]


def _single(chance: random.Random, width: int, height: int, background: str, wishes: Wishes) -> Placed:
    position, size, side = None, None, chance.uniform(0.66, 0.77)
    if chance.random() < wishes.size_share:
        size = chance.choice(("small", "big"))
        side = chance.uniform(0.31, 0.39) if size == "small" else chance.uniform(0.86, 0.95)
    if size != "big" and chance.random() < wishes.position_share:
        position = chance.choice(tuple(POSITIONS))
        side = min(side, chance.uniform(0.43, 0.51))
    cx, cy = POSITIONS[position] if position else (0.5, 0.5)
    identity = _identity(chance, background, wishes)
    thing = _place(chance, identity, cx, cy, side * min(width, height), wobble=0.03, turn=True)
    return (thing,), {"position": position, "size": size}


def _pair(chance: random.Random, width: int, height: int, background: str, wishes: Wishes) -> Placed:
    """Two things that are not the same; the first is left of the second or above it."""
    relation = "above" if chance.random() < 0.3 else "beside"
    first = _identity(chance, background, wishes)
    second = _identity(chance, background, wishes)
    while second == first:
        second = _identity(chance, background, wishes)
    centres = ((0.5, 0.27), (0.5, 0.73)) if relation == "above" else ((0.27, 0.5), (0.73, 0.5))
    room = min(0.45 * height, 0.85 * width) if relation == "above" else min(0.45 * width, 0.85 * height)
    side = room * chance.uniform(0.88, 1.0)
    things = tuple(
        _place(chance, identity, cx, cy, side, wobble=0.015)
        for identity, (cx, cy) in zip((first, second), centres, strict=True)
    )
    return things, {"relation": relation}


LAYOUTS = {
    2: (((0.27, 0.5), (0.73, 0.5)),),
    3: (((0.5, 0.27), (0.27, 0.73), (0.73, 0.73)), ((0.18, 0.5), (0.5, 0.5), (0.82, 0.5))),
    4: (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),),
}
"""Where so many things stand, as shares of width and height."""


def _count(chance: random.Random, width: int, height: int, background: str, wishes: Wishes) -> Placed:
    identity = _identity(chance, background, wishes)
    while is_uncountable(identity[0]):
        identity = _identity(chance, background, wishes)
    layout = chance.choice(LAYOUTS[chance.choice(tuple(COUNTS))])
    columns, rows = len({x for x, _ in layout}), len({y for _, y in layout})
    room = min(width * (0.31 if columns == 3 and rows == 1 else 0.46), height * (0.46 if rows > 1 else 0.85))
    side = room * chance.uniform(0.88, 1.0)
    return tuple(_place(chance, identity, cx, cy, side, wobble=0.015, flip=False) for cx, cy in layout), {}


Identity = tuple[str, str | None, Colour | None]


def _identity(chance: random.Random, background: str, wishes: Wishes) -> Identity:
    """Name, colour and shade of a thing; never in the colour of a plain background."""
    if chance.random() < wishes.shape_share:
        name, tinted = chance.choice(SHAPES), True
    else:
        name, tinted = chance.choice(wishes.objects), chance.random() < wishes.tint_share
    if not tinted:
        return name, None, None
    colour = wishes.colour or chance.choice([colour for colour in COLOURS if colour != background])
    return name, colour, _shade(chance, colour)


def is_uncountable(name: str) -> bool:
    return name in OBJECTS and OBJECTS[name][0] in UNCOUNTABLE


def _shade(chance: random.Random, colour: str, spread: int = 10) -> Colour:
    red, green, blue = (min(255, max(0, part + chance.randint(-spread, spread))) for part in COLOURS[colour])
    return red, green, blue


def _place(
    chance: random.Random,
    identity: Identity,
    cx: float,
    cy: float,
    size: float,
    *,
    wobble: float,
    turn: bool = False,
    flip: bool = True,
) -> Thing:
    """Shapes are neither turned nor mirrored: a turned square is a diamond."""
    name, colour, rgb = identity
    loose = name not in SHAPES
    return Thing(
        name=name,
        colour=colour,
        rgb=rgb,
        cx=cx + chance.uniform(-wobble, wobble),
        cy=cy + chance.uniform(-wobble, wobble),
        size=size,
        angle=chance.uniform(-9, 9) if turn and loose and chance.random() < 0.3 else 0.0,
        flip=flip and loose and chance.random() < 0.3,
    )
