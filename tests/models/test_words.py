"""The words and examples that a model's folder lists: announced, bounded, and no part of which weights these are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from worker.models.announced import describe
from worker.models.bundle import load
from worker.models.defaults import LONGEST_ENTRY, LONGEST_EXAMPLE, MOST_EXAMPLES, MOST_WORDS
from worker.models.judge import judge

WORDS = {"vocabulary": ["cat", "ice cream", "cat", "घोड़ा"], "examples": ["a cat", "an ice cream"]}


def test_the_card_carries_them(folder: Path) -> None:
    before = describe(load(folder), seats=1, limits={})
    assert (before.vocabulary, before.examples) == ((), ())
    (folder / "darkroom.json").write_text(json.dumps(WORDS), encoding="utf-8")
    card = describe(load(folder), seats=1, limits={})
    assert (card.vocabulary, card.examples) == (("cat", "ice cream", "घोड़ा"), ("a cat", "an ice cream"))
    assert card.sha256 == before.sha256, "a list changes no picture"
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_a_card_of_an_older_worker_is_read(folder: Path) -> None:
    card = describe(load(folder), seats=1, limits={})
    older = card.model_dump(exclude={"vocabulary", "examples"})
    assert ModelCard.model_validate(older) == card


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"vocabulary": []}, "vocabulary: an empty list says nothing: leave it out"),
        ({"vocabulary": "cat dog"}, "vocabulary"),
        ({"vocabulary": ["cat", 3]}, "vocabulary.1"),
        ({"vocabulary": ["cat", " -- "]}, "vocabulary: ' -- ' has no word in it"),
        ({"vocabulary": ["cat\ndog"]}, r"vocabulary: 'cat\ndog' has no word in it, or what cannot be printed"),
        ({"vocabulary": [f"w{n}" for n in range(MOST_WORDS + 1)]}, f"{MOST_WORDS + 1} entries, at most {MOST_WORDS}"),
        ({"vocabulary": ["a" * (LONGEST_ENTRY + 1)]}, f"is longer than {LONGEST_ENTRY} characters"),
        ({"examples": [f"a {n}" for n in range(MOST_EXAMPLES + 1)]}, f"at most {MOST_EXAMPLES} can be announced"),
        ({"examples": ["a" * (LONGEST_EXAMPLE + 1)]}, f"is longer than {LONGEST_EXAMPLE} characters"),
        ({"vocabulry": ["cat"]}, "wrong entry (vocabulry)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_list_that_cannot_be_announced_is_refused(folder: Path, entry: dict[str, Any], said: str) -> None:
    (folder / "darkroom.json").write_text(json.dumps(entry))
    [fault] = judge(folder).faults
    assert said in fault
    assert "darkroom.json has a wrong entry" in fault
