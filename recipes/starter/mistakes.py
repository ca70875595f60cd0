"""Captions that are nearly true: the words of a picture with one mistake in them.

Knows plans and which mistakes can be seen; knows no pixels. Other pictures' captions alone teach a CLIP neither places
nor whose colour is whose, because a batch can be told apart without; captions with a mistake do (Yuksekgonul et al.
2023, arXiv 2210.01936).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from recipes.starter.captions import caption
from recipes.starter.plan import Plan, Thing, is_uncountable
from recipes.starter.words import COLOURS, COUNTS, POSITIONS, SCENES, SHAPES, SIZES, STYLES

T = TypeVar("T")
TRIES = 20

COLOURLESS = ("bw", "sketch")
"""Styles in which no colour can be seen."""


def said(chance: random.Random, plan: Plan, names: Sequence[str], count: int) -> tuple[str, list[str]]:
    """A caption of the plan, and so many with a mistake each, in the same words otherwise.

    `names` are the things that may be mistaken for each other. A mistake may come twice.
    """
    state = chance.getstate()
    true = caption(chance, plan)
    return true, [_mistaken(chance, plan, names, state, true) for _ in range(count)]


def _mistaken(chance: random.Random, plan: Plan, names: Sequence[str], state: Any, true: str) -> str:
    """A mistake in what the caption leaves unsaid is none: then another is made, at last one of the name."""
    for attempt in range(TRIES):
        mistake = chance.choice(MISTAKES) if attempt < TRIES - 1 else _name
        wrong = mistake(chance, plan, names)
        same_words = random.Random()
        same_words.setstate(state)
        if wrong and (words := caption(same_words, wrong)) != true:
            return words
    raise AssertionError("no other name makes another caption; this is a bug.")


def _other(chance: random.Random, present: T, options: Sequence[T], *, but: Sequence[T | None] = ()) -> T:
    return chance.choice([option for option in options if option != present and option not in but])


def _changed(plan: Plan, number: int, thing: Thing) -> Plan:
    """With another thing in one place, or in all of them where they are counted."""
    if plan.mode == "count":
        return replace(plan, things=(thing,) * len(plan.things))
    return replace(plan, things=(*plan.things[:number], thing, *plan.things[number + 1 :]))


def _name(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan:
    """Shapes are mistaken for shapes, objects for objects."""
    number = chance.randrange(len(plan.things))
    thing = plan.things[number]
    alike = SHAPES if thing.is_shape else [name for name in names if name not in SHAPES]
    if plan.mode == "count":
        alike = [name for name in alike if not is_uncountable(name)]
    name = _other(chance, thing.name, alike, but=[thing.name for thing in plan.things])
    return _changed(plan, number, replace(thing, name=name))


def _colour(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    number = chance.randrange(len(plan.things))
    thing = plan.things[number]
    if thing.colour is None or plan.style in COLOURLESS:
        return None
    colour = _other(chance, thing.colour, tuple(COLOURS), but=(plan.background,))
    return _changed(plan, number, replace(thing, colour=colour))


def _whose_colour(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    if plan.mode != "pair" or plan.style in COLOURLESS:
        return None
    first, second = plan.things
    return replace(plan, things=(replace(first, colour=second.colour), replace(second, colour=first.colour)))


def _order(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    """Of two things above each other. "A and B" may stand in either order for whoever reads it."""
    return replace(plan, things=plan.things[::-1]) if plan.relation == "above" else None


def _count(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    if plan.mode != "count":
        return None
    return replace(plan, things=(plan.things[0],) * _other(chance, len(plan.things), tuple(COUNTS)))


def _position(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    return replace(plan, position=_other(chance, plan.position, tuple(POSITIONS))) if plan.position else None


def _size(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    return replace(plan, size=_other(chance, plan.size, tuple(SIZES))) if plan.size else None


def _background(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    if plan.style in COLOURLESS:
        return None
    alike = tuple(COLOURS if plan.background in COLOURS else SCENES)
    return replace(plan, background=_other(chance, plan.background, alike, but=[thing.colour for thing in plan.things]))


def _style(chance: random.Random, plan: Plan, names: Sequence[str]) -> Plan | None:
    return replace(plan, style=_other(chance, plan.style, tuple(STYLES))) if plan.style else None


Mistake = Callable[[random.Random, Plan, Sequence[str]], Plan | None]
MISTAKES: tuple[Mistake, ...] = (
    _name,
    _colour,
    _whose_colour,
    _order,
    _count,
    _position,
    _size,
    _background,
    _style,
)
"""Each gives the plan with a mistake that could be seen in its picture, or None if there is none of its kind."""
