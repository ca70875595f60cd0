"""Commands of other programs in a prompt: a warning, and none for what people write."""

from __future__ import annotations

import pytest

from app.contract.messages.a1111_syntax import escaped, sections
from app.contract.messages.prompt_syntax import misunderstood
from app.contract.messages.spec import PromptSyntax


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a (cat:1.3) on a mat", "weights such as (…:1.3)"),
        ("a (red cat : -.5)", "weights such as (…:1.3)"),
        ("((masterpiece)), a cat", "doubled brackets"),
        ("a [cat:dog:0.5]", "[…:…:0.5]"),
        ("a cat BREAK a dog", "BREAK"),
        ("a cat <lora:watercolour:0.8>", "<lora:…>"),
        ("a (cat:1.3) BREAK <LoRA:x:1>", "weights such as (…:1.3), BREAK, <lora:…>"),
    ],
)
def test_what_is_read_as_letters_is_said(prompt: str, named: str) -> None:
    [warning] = misunderstood(prompt, "plain", field="prompt")
    said, _, remedy = warning.partition(" The parameter ")
    assert said == f"Read as plain letters in the prompt, without effect: {named}."
    nobody_reads = "[…:…:0.5]" in named
    assert remedy == ("" if nobody_reads else 'prompt_syntax: "a1111" has them read as AUTOMATIC1111 does.')


def test_the_remedy_promises_no_more_than_there_is() -> None:
    [warning] = misunderstood("a [cat:dog:0.5] BREAK", "plain", field="prompt")
    assert warning.endswith(
        '[…:…:0.5], BREAK. The parameter prompt_syntax: "a1111" has BREAK read as AUTOMATIC1111 does.'
    )


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a [cat:dog:0.5]", "prompt editing such as […:…:0.5]"),
        ("a [cat:10] [dog::.3]", "prompt editing such as […:…:0.5]"),
        ("[a|b|c]", "alternation such as […|…]"),
        ("a cat AND a dog", "AND between prompts"),
        ("a cat <hypernet:ink:1>", "<hypernet:…>"),
        ("a cat <lora:ink:1>", "<lora:…>"),
    ],
)
def test_what_is_not_supported_of_the_syntax_is_said(prompt: str, named: str) -> None:
    said = f"Not supported, and read as plain letters in the negative prompt: {named}."
    assert misunderstood(prompt, "a1111", field="negative prompt") == [said]


@pytest.mark.parametrize(
    "prompt", ["a (cat:1.3) [dog] BREAK ((b))", "\\[a|b\\], \\[a:b:0.5\\]", "HANDMADE, and, a | b", ""]
)
def test_what_is_supported_needs_no_word(prompt: str) -> None:
    assert misunderstood(prompt, "a1111", field="prompt") == []


@pytest.mark.parametrize(
    "prompt",
    ["a red circle", "a cat (sleeping), 3:2", "a coffee break", "BREAKFAST", "a < b", "[a, b]", "(at 10:30 a.m.)", ""],
)
def test_plain_words_are_no_commands(prompt: str) -> None:
    assert misunderstood(prompt, "plain", field="prompt") == []


HOSTILE = (
    "[" + ":" * 2_000 + "1" * 2_000,
    "(" + ":" * 2_000 + "1" * 2_000,
    "[" + ": " * 2_000 + "1" * 2_000,
    "[" + ":" * 2_000 + " " * 1_500 + "1" * 1_500,
    "(:" + "1." * 2_000,
    "[|" * 2_000,
    "(a:1" * 1_000,
    "BREAK " * 700,
    "<lora:" * 700,
    "\\" * 2_000,
)


@pytest.mark.parametrize("syntax", ["plain", "a1111"])
def test_no_prompt_takes_its_reader_for_long(syntax: PromptSyntax) -> None:
    """Where a form could be read in many ways, the first of these would take days; all of them take no second."""
    for prompt in HOSTILE:
        misunderstood(prompt, syntax, field="prompt")
        sections(prompt)
        escaped(prompt)
