"""Which words a model has not learned, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.contract.messages.vocabulary import LONGEST_WORD, MOST_SAID, UnknownWord, Vocabulary, distance, unlearned

SHARED: dict[str, Any] = json.loads(Path(__file__).with_name("vocabulary_cases.json").read_text(encoding="utf-8"))
STARTER = Path(__file__).parents[2] / "models" / "starter" / "darkroom.json"


@pytest.mark.parametrize("case", SHARED["cases"], ids=lambda case: case["text"][:30] or "empty")
def test_words_that_a_list_lacks(case: dict[str, Any]) -> None:
    found = Vocabulary(SHARED["vocabulary"]).unknown(case["text"])
    assert [[each.word, each.near] for each in found] == case["unknown"]


def test_without_a_list_no_word_is_unknown() -> None:
    assert Vocabulary(()).unknown("an astronaut riding a horse") == []


@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [("", "", 0), ("", "abc", 3), ("horse", "hosre", 1), ("blue", "bleu", 1), ("ca", "abc", 3), ("fox", "box", 1)],
)
def test_distance(one: str, other: str, steps: int) -> None:
    assert (distance(one, other), distance(other, one)) == (steps, steps)


def test_the_sentence() -> None:
    found = [UnknownWord("elefant", "elephant"), UnknownWord("riding")]
    assert unlearned("starter", found) == "starter has not learned: elefant (did you mean: elephant?), riding."
    said = unlearned("starter", found[1:], of="of the negative prompt")
    assert said == "starter has not learned, of the negative prompt: riding."


def test_a_sentence_has_an_end() -> None:
    strangers = [f"word{'x' * number}" for number in range(MOST_SAID + 30)]
    said = unlearned("m", Vocabulary(["cat"]).unknown(" ".join(strangers)))
    assert said.endswith(f"{strangers[MOST_SAID - 1]} and 30 more.")
    assert unlearned("m", Vocabulary(["cat"]).unknown("字" * 2000)) == f"m has not learned: {'字' * LONGEST_WORD}…."


NEW_USERS = {
    "a red circle on a blue background": "",
    "a cat": "",
    "A cute cat": "cute",
    "two dogs on the beach": "",
    "an astronaut riding a horse": "astronaut, riding",
    "a photo of a cat": "",
    "a woman in a red dress": "woman, dress",
    "portrait of a man, 4k, masterpiece": "portrait, man, 4k, masterpiece",
    "a house in the forest": "forest",
    "sunset over the ocean": "sunset",
    "the Eiffel tower at night": "eiffel, tower",
    "a cyberpunk city": "cyberpunk, city",
    "5 green apples": "5",
    "3 green apples": "3 (did you mean: three?)",
    "a grey elefant": "grey (did you mean: gray?), elefant (did you mean: elephant?)",
    "a peguin in the snow": "peguin (did you mean: penguin?)",
    "a yelow star": "yelow (did you mean: yellow?)",
    "ein roter Kreis": "ein, roter, kreis",
    "un chat noir": "un, chat (did you mean: cat?), noir",
    "un gato en la playa": "un, gato, en, la, playa",
    "一只猫": "一只猫",
    "красный круг": "красный, круг",
    "🐱": "🐱",
    "a cat's birthday-cake, black-and-white": "",
    "a teddy bear's ice cream": "",
}


@pytest.mark.parametrize(("prompt", "strangers"), NEW_USERS.items())
def test_what_a_new_user_asks_the_bundled_model_for(prompt: str, strangers: str) -> None:
    known = Vocabulary(json.loads(STARTER.read_text(encoding="utf-8"))["vocabulary"])
    found = known.unknown(prompt)
    assert unlearned("starter", found) == f"starter has not learned: {strangers}."
