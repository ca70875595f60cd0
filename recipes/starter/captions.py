"""A plan in words, in one of the many ways to say it.

Knows English for the world of `words`; knows nothing of pixels. `plain` says everything once, as an examiner would;
`caption` varies, leaves the background unsaid now and then, and adds phrases that mean nothing.
"""

from __future__ import annotations

import random
from dataclasses import replace

from recipes.starter.plan import Plan, Thing
from recipes.starter.words import COLOURS, COUNTS, FILLERS, OBJECTS, SCENES, SIZES, STYLES, article, plural

BESIDE = ("{} and {}", "{} and {}", "{} and {}", "{} next to {}", "{} to the left of {}", "{} with {}")
ABOVE = ("{} above {}", "{} on top of {}", "{} over {}")
RIGHT, BELOW = "{} to the right of {}", "{} below {}"
ON_COLOUR = (" on {} background", " on {} background", " on {} background", ", {} background", " on {}")
UNSAID = 0.1
"""Share of captions that leave the background to the model."""


def plain(plan: Plan) -> str:
    """The plan in its usual words, everything said: "three red circles on a blue background"."""
    return _styled(None, plan, _subject(None, plan) + _background(None, plan))


def caption(chance: random.Random, plan: Plan) -> str:
    """The plan in some words."""
    words = _subject(chance, plan)
    if chance.random() >= UNSAID:
        words += _background(chance, plan)
    words = _styled(chance, plan, words)
    if chance.random() < 0.08:
        words = chance.choice(FILLERS).format(words)
    return words.capitalize() if chance.random() < 0.02 else words


def _subject(chance: random.Random | None, plan: Plan) -> str:
    if plan.mode == "count":
        return _counted(chance, plan)
    if plan.mode == "pair":
        return _pair(chance, plan)
    noun = _described(chance, plan.things[0])
    if plan.size:
        adjective = chance.choice(SIZES[plan.size]) if chance else SIZES[plan.size][0]
        noun = f"{adjective} {noun}"
    return article(noun) + (f" {plan.position}" if plan.position else "")


def _counted(chance: random.Random | None, plan: Plan) -> str:
    """Two or more of one thing. A noun without a plural gives way to the usual one, which has a plural."""
    thing = plan.things[0]
    many = plural(_noun(chance, thing)) or plural(_noun(None, thing))
    assert many is not None, "a thing that is not counted was planned; this is a bug."
    return " ".join(filter(None, (COUNTS[len(plan.things)], thing.colour, many)))


def _pair(chance: random.Random | None, plan: Plan) -> str:
    first, second = (article(_described(chance, thing)) for thing in plan.things)
    usual, reverse = (ABOVE, BELOW) if plan.relation == "above" else (BESIDE, RIGHT)
    if chance is None:
        return usual[0].format(first, second)
    if chance.random() < 0.2:
        return reverse.format(second, first)
    return chance.choice(usual).format(first, second)


def _described(chance: random.Random | None, thing: Thing) -> str:
    noun = _noun(chance, thing)
    return f"{thing.colour} {noun}" if thing.colour else noun


def _noun(chance: random.Random | None, thing: Thing) -> str:
    nouns = OBJECTS.get(thing.name, (thing.name,))
    return nouns[0] if chance is None or chance.random() < 0.7 else chance.choice(nouns)


def _background(chance: random.Random | None, plan: Plan) -> str:
    if plan.background in COLOURS:
        form = chance.choice(ON_COLOUR) if chance else ON_COLOUR[0]
        bare = form in ON_COLOUR[3:]
        return form.format(plan.background if bare else article(plan.background))
    phrases = SCENES[plan.background]
    return " " + (phrases[0] if chance is None or chance.random() < 0.6 else chance.choice(phrases))


def _styled(chance: random.Random | None, plan: Plan, words: str) -> str:
    if plan.style is None:
        return words
    forms = STYLES[plan.style]
    return (chance.choice(forms) if chance else forms[0]).format(words)


def noun_caption(plan: Plan, name: str) -> str:
    """The plan in its usual words, with another thing in the first one's place."""
    thing = replace(plan.things[0], name=name)
    return plain(replace(plan, things=(thing, *plan.things[1:])))
