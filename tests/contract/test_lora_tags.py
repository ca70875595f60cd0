"""`<lora:name:weight>` in a prompt in AUTOMATIC1111's syntax: an entry of `loras` before the job is stored."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.lora_tags import WrongTag, untagged
from app.contract.messages.params import JobRequest, ParamError, ParamsRejected, resolve

A1111 = {"prompt_syntax": "a1111", "seed": 7}


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"takes": ("prompt_syntax", "loras"), "loras": (Adapter(name="ink"),)})


def refusal(card: ModelCard, **request: Any) -> ParamError:
    with pytest.raises(ParamsRejected) as rejected:
        resolve(JobRequest(**A1111 | request), card)
    [error] = rejected.value.errors
    return error


@pytest.mark.parametrize(
    ("prompt", "left", "loras"),
    [
        ("a cat <lora:ink:0.8>", "a cat", [("ink", 0.8)]),
        ("<lora:ink>a cat", "a cat", [("ink", 1.0)]),
        ("a <LORA:old ink-v1.5:-.5> cat, <lyco:x: 1 >", "a  cat,", [("old ink-v1.5", -0.5), ("x", 1.0)]),
        (" a < b > (c:1.2) <hypernet:x:1> ", " a < b > (c:1.2) <hypernet:x:1> ", []),
    ],
)
def test_tags_are_taken_out(prompt: str, left: str, loras: list[tuple[str, float]]) -> None:
    words = untagged(prompt, [])
    assert (words.prompt, [(each.name, each.weight) for each in words.loras]) == (left, loras)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<lora:ink:strong>", "must be <lora:name> or <lora:name:weight>"),
        ("<lora:ink:0.5:0.7>", "must be <lora:name> or <lora:name:weight>"),
        ("<lora:ink:te=0.5:unet=1>", "must be <lora:name> or <lora:name:weight>"),
        ("<lora:ink:>", "must be <lora:name> or <lora:name:weight>"),
        ("<lora:ink:nan>", "loras are refused"),
        ("<lora:ink:5>", "loras are refused: input should be less than or equal to 4"),
        ("<lora:ink>" * 5, "loras are refused"),
        (f"<lora:{'i' * 65}>", "loras are refused"),
    ],
)
def test_a_tag_that_cannot_be_done_is_refused_by_a_sentence(tag: str, said: str) -> None:
    with pytest.raises(WrongTag, match=said):
        untagged(f"a cat {tag}", [])


def test_the_record_says_what_a_tag_said(card: ModelCard) -> None:
    request = JobRequest(**A1111, prompt="a (cat:1.2) <lora:ink:0.8>", loras=[{"name": "ink", "weight": 0.25}])
    spec = resolve(request, card)
    assert spec.prompt == "a (cat:1.2)"
    assert [(lora.name, lora.weight) for lora in spec.loras] == [("ink", 0.25), ("ink", 0.8)]
    assert request.prompt == "a (cat:1.2) <lora:ink:0.8>", "a request that comes again is compared as it was sent"


def test_in_a_plain_prompt_it_is_letters(card: ModelCard) -> None:
    spec = resolve(JobRequest(prompt="a cat <lora:ink:0.8>", seed=7), card)
    assert (spec.prompt, spec.loras) == ("a cat <lora:ink:0.8>", ())


def test_a_refusal_of_its_lora_is_one_of_the_prompt(card: ModelCard) -> None:
    without = card.model_copy(update={"takes": ("prompt_syntax",)})
    error = refusal(without, prompt="a cat <lora:ink:0.8>")
    assert (error.pointer, error.code) == ("/prompt", "not_taken")
    assert error.detail.startswith("has <lora:ink>, which is something that")
    plainly = refusal(without, prompt="a cat", loras=[{"name": "ink"}])
    assert plainly.pointer == "/loras"
    assert "DARKROOM_LORAS" in plainly.detail


def test_an_error_about_a_lora_that_was_not_in_a_tag_stays_where_it_was() -> None:
    [given] = untagged("<lora:ink>a", []).loras
    words = untagged("a cat <lora:wash>", [given])
    assert words.where("/loras/0/name", "is unknown") == ("/loras/0/name", "is unknown")
    assert words.where("/loras/1/name", "is unknown") == ("/prompt", "has <lora:wash>, which is unknown")
    assert words.where("/seed", "is odd") == ("/seed", "is odd")


def test_a_prompt_of_tags_alone_is_refused(card: ModelCard) -> None:
    error = refusal(card, prompt=" <lora:ink> ")
    assert (error.pointer, error.code) == ("/prompt", "blank_prompt")
    assert "nothing but LoRA tags" in error.detail


def test_weights_that_no_embedding_survives_are_refused(card: ModelCard) -> None:
    assert refusal(card, prompt="a (cat:1000)").pointer == "/prompt"
    error = refusal(card, prompt="a cat", negative_prompt="(" * 60 + "blurry")
    assert (error.pointer, error.code) == ("/negative_prompt", "out_of_range")
    assert resolve(JobRequest(prompt="a (cat:1000)"), card).prompt == "a (cat:1000)", "letters in a plain prompt"


def test_the_syntax_is_refused_by_models_that_do_not_read_it(card: ModelCard) -> None:
    error = refusal(card.model_copy(update={"takes": ()}), prompt="a cat")
    assert (error.pointer, error.code) == ("/prompt_syntax", "not_taken")
