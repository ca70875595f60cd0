"""The list of the bundled model holds what its captions can say: all of it, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from app.contract.messages.vocabulary import Vocabulary, words_of
from recipes.starter.assemble import write_manifest
from recipes.starter.captions import caption
from recipes.starter.plan import RELATIONS, Plan, Thing, is_uncountable
from recipes.starter.vocabulary import EXAMPLES, objects_on_card, vocabulary, write
from recipes.starter.words import COLOURS, COUNTS, POSITIONS, SCENES, SHAPES, SIZES, STYLES

STARTER = Path(__file__).parents[3] / "models" / "starter"


class Scripted(random.Random):
    """Chance that follows a script of decisions and notes how many there were to take at each."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__()
        self._script = list(script)
        self.taken: list[tuple[int, int]] = []

    def _decide(self, options: int) -> int:
        at = len(self.taken)
        self.taken.append((self._script[at] if at < len(self._script) else 0, options))
        return self.taken[-1][0]

    def random(self) -> float:
        return (0.0, 0.999999)[self._decide(2)]

    def choice(self, options: Any) -> Any:
        return options[self._decide(len(options))]


def all_captions(plan: Plan) -> Iterator[str]:
    """Every caption of the plan: each decision taken in each way."""
    script: list[int] | None = []
    while script is not None:
        chance = Scripted(script)
        yield caption(chance, plan)
        taken = chance.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        script = [*(decision for decision, _ in taken[:-1]), taken[-1][0] + 1] if taken else None


def thing(name: str, colour: str | None = None) -> Thing:
    return Thing(name=name, colour=colour, rgb=None, cx=0.5, cy=0.5, size=90)


def plan(*things: Thing, mode: str = "single", background: str = "snow", **said: str | None) -> Plan:
    return Plan(
        width=128, height=128, mode=mode, things=things, background=background, background_rgb=None,
        relation=said.get("relation"), position=said.get("position"), size=said.get("size"), style=said.get("style"),
    )  # fmt: skip


def plans(objects: Sequence[str]) -> Iterator[Plan]:
    """Everything there is to say, each beside little else: what is said of one part does not depend on the others."""
    for name in (*SHAPES, *objects):
        yield plan(thing(name))
        if not is_uncountable(name):
            yield plan(*(thing(name),) * 2, mode="count")
    yield from (plan(*(thing("circle"),) * count, mode="count") for count in COUNTS)
    yield from (plan(thing("circle", colour), background=colour) for colour in COLOURS)
    yield from (plan(thing("circle"), background=scene) for scene in SCENES)
    yield from (replace(plan(thing("circle")), style=style) for style in STYLES)
    yield from (replace(plan(thing("circle")), size=size, position=where) for size, where in product(SIZES, POSITIONS))
    yield from (plan(thing("ring"), thing("star"), mode="pair", relation=relation) for relation in RELATIONS)


@pytest.fixture(scope="module")
def objects() -> list[str]:
    return objects_on_card(STARTER)


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((STARTER / "darkroom.json").read_text(encoding="utf-8"))
    return entries


def test_the_list_has_every_word_that_captions_can_say_and_no_other(objects: list[str]) -> None:
    sayable = {word for each in plans(objects) for said in all_captions(each) for word in words_of(said)}
    listed = {word for entry in vocabulary(objects) for word in words_of(entry)}
    assert listed - sayable == set()
    assert sayable - listed == set()


def test_the_shipped_list_is_the_recipes(objects: list[str], shipped: dict[str, Any]) -> None:
    assert shipped["vocabulary"] == vocabulary(objects)
    assert shipped["examples"] == list(EXAMPLES)


def test_every_example_is_said_in_listed_words(shipped: dict[str, Any]) -> None:
    listed = Vocabulary(shipped["vocabulary"])
    assert [listed.unknown(example) for example in shipped["examples"]] == [[]] * len(EXAMPLES)


def test_writing_twice_changes_nothing_and_keeps_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / "darkroom.json").write_text('{"max_steps": 100}')
    write(tmp_path, ["fox"])
    write_manifest(tmp_path)
    once = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write(tmp_path, ["fox"])
    write_manifest(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == once
    assert json.loads(once["darkroom.json"])["max_steps"] == 100
