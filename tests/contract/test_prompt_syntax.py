"""Commands of other programs in a prompt: a warning, and none for what people write."""

from __future__ import annotations

import pytest

from app.contract.messages.prompt_syntax import read_as_letters


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
    assert read_as_letters(prompt, field="prompt") == [f"Read as plain letters in the prompt, without effect: {named}."]


@pytest.mark.parametrize(
    "prompt",
    ["a red circle", "a cat (sleeping), 3:2", "a coffee break", "BREAKFAST", "a < b", "[a, b]", "(at 10:30 a.m.)", ""],
)
def test_plain_words_are_no_commands(prompt: str) -> None:
    assert read_as_letters(prompt, field="prompt") == []
