"""A size that a model does not draw is refused with those that will do, and they do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.params import JobRequest, ParamError, ParamsRejected, resolve
from app.contract.messages.spec import PARAMETERS
from app.jobs.translation import Wording, sides


def refusals(card: ModelCard, **asked: Any) -> list[ParamError]:
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a", **asked), card)
    return refused.value.errors


@pytest.mark.parametrize(
    ("side", "detail", "fit"),
    [
        (100, "must be a multiple of 8; 96 or 104 will do", [96, 104]),
        (255, "must be a multiple of 8; 248 or 256 will do", [248, 256]),
        (63, "must be 64 to 256 pixels; 64 will do", [64]),
        (1, "must be 64 to 256 pixels; 64 will do", [64]),
        (257, "must be 64 to 256 pixels; 256 will do", [256]),
        (16_384, "must be 64 to 256 pixels; 256 will do", [256]),
    ],
)
def test_a_side(card: ModelCard, side: int, detail: str, fit: list[int]) -> None:
    for name in ("width", "height"):
        [error] = refusals(card, **{name: side})
        assert (error.pointer, error.detail) == (f"/{name}", detail)
        for other in fit:
            assert getattr(resolve(JobRequest(prompt="a", **{name: other}), card), name) == other


def test_sides_that_are_no_multiples_themselves(card: ModelCard) -> None:
    """What would do is within the limits, and a multiple."""
    odd = card.model_copy(update={"side_multiple": 64, "min_side": 65, "max_side": 200, "width": 128, "height": 128})
    assert [refusals(odd, width=side)[0].detail for side in (64, 100, 201)] == [
        "must be 65 to 200 pixels; 128 will do",
        "must be a multiple of 64; 128 will do",
        "must be 65 to 200 pixels; 192 will do",
    ]


@pytest.mark.parametrize("ratio", ["99:1", "1:99", "9:2"])
def test_a_ratio(card: ModelCard, ratio: str) -> None:
    """One error and no two of sides that nobody has said."""
    [error] = refusals(card, aspect_ratio=ratio)
    assert error.pointer == "/aspect_ratio"
    assert error.detail.endswith("pixels, and sides must be 64 to 256; 1:4 to 4:1 will do")
    for other in ("1:4", "4:1"):
        resolve(JobRequest(prompt="a", aspect_ratio=other), card)


def test_too_much_of_a_size_that_is_drawn(card: ModelCard) -> None:
    tight = card.model_copy(update={"max_work": 128 * 128 * 10})
    [error] = refusals(tight, num_inference_steps=20, num_images=2)
    told = "num_inference_steps 5 or 64 x 64 pixels will do"
    assert (error.pointer, error.detail.rpartition(": ")[2]) == ("", told)
    resolve(JobRequest(prompt="a", num_inference_steps=5, num_images=2), tight)
    resolve(JobRequest(prompt="a", num_inference_steps=20, num_images=2, width=64, height=64), tight)
    [error] = refusals(tight, num_inference_steps=5, num_images=4)
    assert error.detail.endswith(": num_inference_steps 2 or num_images 2 or 88 x 88 pixels will do")
    resolve(JobRequest(prompt="a", num_inference_steps=5, num_images=2), tight)
    resolve(JobRequest(prompt="a", num_inference_steps=5, num_images=4, width=88, height=88), tight)
    none = card.model_copy(update={"max_work": 1})
    assert re.search("at most 1$", refusals(none)[0].detail)


@pytest.mark.parametrize(
    "asked",
    [{"num_images": 1000}, {"num_inference_steps": 10_000}, {"best_of": 1000}, {"width": 71, "num_images": 10}],
)
def test_of_a_number_that_is_refused_that_is_told_first(card: ModelCard, asked: dict[str, Any]) -> None:
    """Not what would be little enough work: 16 pictures are no less refused than 1000, where a job has 10 at most."""
    takes = {"takes": tuple(PARAMETERS), "scorer": "a-scorer"}
    tight = card.model_copy(update={**takes, "max_work": 128 * 64 * 100, "max_images": 10})
    [error] = refusals(tight, height=64, **{"num_inference_steps": 100, **asked})
    assert error.pointer == f"/{next(iter(asked))}"


def test_a_ratio_that_is_named_has_numbers_of_two_digits(card: ModelCard) -> None:
    """As all that may be asked for: of 11.3, which is 113:10, only the whole part."""
    wide = card.model_copy(update={"min_side": 32, "max_side": 432})
    [error] = refusals(wide, aspect_ratio="99:1")
    assert error.detail.endswith("; 1:11 to 11:1 will do")
    for other in ("1:11", "11:1"):
        resolve(JobRequest(prompt="a", aspect_ratio=other), wide)


def test_less_that_would_be_refused_in_its_turn_is_not_named(card: ModelCard) -> None:
    """Steps of which the strength leaves none, and fewer pictures than a way has places."""
    takes = {"takes": tuple(PARAMETERS), "tasks": ("text-to-image", "image-to-image"), "embedding_dimensions": 3}
    tight = card.model_copy(update={**takes, "prior_num_inference_steps": 25, "max_work": 128 * 128 * 10})
    picture = InputPicture(sha256="a" * 64, width=128, height=128, content_type="image/png")
    for strength, smaller in ((0.05, "88 x 88 pixels"), (0.1, "num_inference_steps 10 or 88 x 88 pixels")):
        edit: dict[str, Any] = {"image": ImageReference(sha256=picture.sha256), "width": 128, "height": 128}
        asked = JobRequest(prompt="a", **edit, strength=strength, num_inference_steps=20)
        with pytest.raises(ParamsRejected) as refused:
            resolve(asked, tight, {"/image": picture})
        assert refused.value.errors[0].detail.rpartition(": ")[2] == f"{smaller} will do"
    way = {"slerp": [{"text": "a star"}, {"text": "a circle"}], "at": [0, 0.3, 0.6, 1]}
    [error] = refusals(tight, image_embedding=way, num_inference_steps=5)
    assert error.detail.rpartition(": ")[2] == "num_inference_steps 2 or 88 x 88 pixels will do"


def test_a_word_that_says_both_sides_tells_which(card: ModelCard) -> None:
    """As OpenAI's and Replicate's `size` does."""
    wording = Wording({"prompt": "a"})
    wording.put("size", **sides("128x129"))
    with pytest.raises(ParamsRejected) as refused:
        resolve(wording.parameters(), card)
    [error] = wording.in_their_words(refused.value).errors
    assert (error.pointer, error.detail) == ("/size", "(height) must be a multiple of 8; 128 or 136 will do")
