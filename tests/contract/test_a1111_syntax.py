"""AUTOMATIC1111's syntax, by the examples that its own parser publishes and by what its wiki says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contract.messages.a1111_syntax import escaped, heaviest, sections, words_of

PUBLISHED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}
"""From the documentation of `parse_prompt_attention` in stable-diffusion-webui."""

CHEAT_SHEET = {
    "a (word)": [("a ", 1.0), ("word", 1.1)],
    "a ((word))": [("a ", 1.0), ("word", 1.1 * 1.1)],
    "a [word]": [("a ", 1.0), ("word", 1 / 1.1)],
    "a (word:1.5)": [("a ", 1.0), ("word", 1.5)],
    "a (word:0.25)": [("a ", 1.0), ("word", 0.25)],
    r"a \(word\)": [("a (word)", 1.0)],
    r"anime_\(character\)": [("anime_(character)", 1.0)],
}
"""From its wiki, "Attention/emphasis"."""

CORNERS = {
    "": [],
    "()": [],
    "a:1.5)": [("a:1.5)", 1.0)],
    "a) b]": [("a) b]", 1.0)],
    "[a:1.5]": [("a:1.5", 1 / 1.1)],
    "(a:b:-.5)": [("a:b", -0.5)],
    "(a : +2. )": [("a ", 2.0)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "(a:1e3)": [("a:1e3", 1.1)],
    "(a [b) c]": [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)],
    "[unbalanced": [("unbalanced", 1 / 1.1)],
    r"a\\b\c": [("a\\bc", 1.0)],
    "(a:0)": [("a", 0.0)],
}


@pytest.mark.parametrize(
    ("prompt", "expected"), (PUBLISHED | CHEAT_SHEET | CORNERS).items(), ids=lambda case: str(case)[:20]
)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    [section] = sections(prompt)
    assert [piece.text for piece in section] == [text for text, _ in expected]
    assert [piece.weight for piece in section] == pytest.approx([weight for _, weight in expected], rel=1e-12)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a cat BREAK a dog", ["a cat", "a dog"]),
        ("a\nBREAK\n\nb", ["a", "b"]),
        ("BREAK a", ["", "a"]),
        ("a BREAK", ["a", ""]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("(a BREAK b:1.3)", ["a", "b"]),
        ("BREAKFAST break, a,BREAK,b", ["BREAKFAST break, a,", ",b"]),
    ],
)
def test_break_begins_a_new_section(prompt: str, texts: list[str]) -> None:
    assert ["".join(piece.text for piece in section) for section in sections(prompt)] == texts


def test_a_weight_reaches_across_a_break() -> None:
    assert [[piece.weight for piece in section] for section in sections("(a BREAK b:1.3) BREAK c")] == [
        [1.3],
        [1.3],
        [1],
    ]


def test_what_is_left_are_words() -> None:
    assert words_of(r"a (((house:1.3)) [on] a BREAK hill \(big\)") == "a house on a hill (big)"


def test_the_heaviest_weight() -> None:
    assert heaviest("a (b:2) (c:-3.5)") == 3.5
    assert heaviest("") == heaviest("a [b]") == 1.0
    assert heaviest("(" * 60 + "a") == pytest.approx(1.1**60)


LETTERS = {
    "a cat (by a lake)": r"a cat \(by a lake\)",
    "(x:1.3) and [y:z:0.5]": r"\(x:1.3\) and \[y:z:0.5\]",
    r"a\b": r"a\\b",
    "sky BREAK sea AND land, BREAKING": "sky break sea and land, BREAKING",
    "<lora:ink:0.8> <3": "< lora:ink:0.8> <3",
}


@pytest.mark.parametrize(("letters", "written"), LETTERS.items())
def test_letters_are_written_so_that_they_are_letters(letters: str, written: str) -> None:
    assert escaped(letters) == written


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*"ab ()[]\\:.13<>", "BREAK", "AND", "<lora:x:1>"]), max_size=12).map("".join))
def test_whatever_is_written_so_is_read_as_it_was(prompt: str) -> None:
    """Small letters and spaces behind < are the only difference: CLIP's tokenizer sees none."""
    assert heaviest(escaped(prompt)) == 1
    assert len(sections(escaped(prompt))) == 1
    assert words_of(escaped(prompt)).lower().replace("< ", "<") == prompt.lower().replace("< ", "<")
