"""What saves evaluations: who may ask for it, what is refused by name, and what is kept of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.deep_cache import MOST_INTERVAL, Cache, interval_of
from app.contract.messages.inputs import InputPicture
from app.contract.messages.kept_spec import asked_again, read_stored, recorded, stored
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import JobSpec

PICTURE = InputPicture(sha256="0" * 64, width=64, height=64, content_type="image/png")
IMAGE = {"sha256": PICTURE.sha256}


@pytest.fixture
def able(card: ModelCard) -> ModelCard:
    takes = ("guidance_end", "cache", "control", "start", "image_embedding")
    tasks = ("text-to-image", "image-variation")
    return card.model_copy(
        update={"takes": takes, "tasks": tasks, "controls": (Adapter(name="canny"),), "max_controls": 1}
    )


def resolved(card: ModelCard, **asked: Any) -> JobSpec:
    pictures = {"/control/0/image": PICTURE, "/image_embedding/of": PICTURE}
    return resolve(JobRequest(prompt="a red circle", seed=7, **asked), card, pictures)


def refused(card: ModelCard, **asked: Any) -> list[str]:
    with pytest.raises(ParamsRejected) as rejected:
        resolved(card, **asked)
    return [f"{error.pointer} {error.code}" for error in rejected.value.errors]


def test_what_is_asked_for_is_kept_and_asked_again(able: ModelCard) -> None:
    spec = resolved(able, guidance_end=0.5, cache={"interval": 3})
    assert (spec.guidance_end, spec.cache) == (0.5, Cache(interval=3))
    assert read_stored(stored(spec)) == spec
    record = json.loads(json.dumps(recorded(spec, seed=7)))
    again = JobRequest(**asked_again(record))
    assert (again.guidance_end, again.cache.interval) == (0.5, 3)


def test_who_does_not_say_it_has_neither(able: ModelCard) -> None:
    spec = resolved(able)
    assert (spec.guidance_end, spec.cache, interval_of(spec.cache)) == (1.0, None, 1)
    assert "cache" not in recorded(spec, seed=7)


@pytest.mark.parametrize("end", [0, 0.009, -1, 1.01, float("nan"), "half"])
def test_it_is_a_part_above_nothing(end: Any) -> None:
    with pytest.raises(ValidationError, match="guidance_end"):
        JobRequest(prompt="a", guidance_end=end)


@pytest.mark.parametrize(
    "cache", [{}, {"interval": 0}, {"interval": MOST_INTERVAL + 1}, {"interval": 2.5}, {"interval": 3, "phase": 1}, 3]
)
def test_an_interval_is_a_number_of_evaluations(cache: Any) -> None:
    with pytest.raises(ValidationError, match="cache"):
        JobRequest(prompt="a", cache=cache)


def test_models_that_do_not_take_them_refuse_them_by_name(card: ModelCard) -> None:
    assert refused(card, guidance_end=0.5, cache={"interval": 3}) == ["/guidance_end not_taken", "/cache not_taken"]
    assert resolved(card, guidance_end=1.0).guidance_end == 1.0


def test_what_they_do_not_go_with(able: ModelCard) -> None:
    control = [{"model": "canny", "image": IMAGE}]
    back: dict[str, Any] = {"start": "inverted", "image_embedding": {"of": IMAGE}}
    assert refused(able, control=control, cache={"interval": 2}) == ["/cache not_with_control"]
    assert refused(able, **back, guidance_end=0.5, cache={"interval": 2}) == [
        "/guidance_end not_with_inversion",
        "/cache not_with_inversion",
    ]
    assert resolved(able, control=control, guidance_end=0.5, cache={"interval": 1}).control
    assert resolved(able, **back, cache={"interval": 1}).start == "inverted"
