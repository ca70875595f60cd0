"""Which ControlNets a request may name: the model's own, and so many of them."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import JobSpec

PICTURE = InputPicture(sha256="0" * 64, width=64, height=64, content_type="image/png")


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    controls = tuple(Adapter(name=name) for name in ("canny", "depth", "openpose"))
    return card.model_copy(update={"takes": ("control",), "controls": controls, "max_controls": 2})


def resolved(card: ModelCard, *names: str) -> JobSpec:
    control: list[dict[str, Any]] = [{"model": name, "image": {"sha256": PICTURE.sha256}} for name in names]
    pictures = {f"/control/{at}/image": PICTURE for at in range(len(names))}
    return resolve(JobRequest(prompt="a", control=control), card, pictures)


def test_those_of_the_card_are_taken(card: ModelCard) -> None:
    [first, second, third] = resolved(card, "canny", "depth", "canny").control
    assert (first.model, second.model, third.model) == ("canny", "depth", "canny")
    assert (first.image, first.scale, first.start, first.end) == (PICTURE, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Cany", "is unknown; did you mean canny?"),
        ("pose", "is unknown; did you mean openpose?"),
        ("zzz", "is unknown; ControlNets of this model: canny, depth, openpose"),
    ],
)
def test_others_are_refused_with_the_likeliest(card: ModelCard, name: str, said: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        resolved(card, "depth", name)
    [error] = refused.value.errors
    assert (error.pointer, error.code, error.detail) == ("/control/1/model", "unknown", said)


def test_more_at_once_than_the_worker_keeps_are_refused(card: ModelCard) -> None:
    with pytest.raises(ParamsRejected) as refused:
        resolved(card, "canny", "depth", "openpose")
    [error] = refused.value.errors
    assert (error.pointer, error.code) == ("/control", "too_many")


def test_a_model_without_any_takes_none(card: ModelCard) -> None:
    bare = card.model_copy(update={"takes": (), "controls": (), "max_controls": 0})
    with pytest.raises(ParamsRejected) as refused:
        resolved(bare, "canny")
    assert [error.pointer for error in refused.value.errors] == ["/control"]
