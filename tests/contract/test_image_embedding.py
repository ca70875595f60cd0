"""Points and ways in the space of image embeddings: what may be said, and that a record says it again."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from app.contract.messages.card import ModelCard
from app.contract.messages.from_pictures import references_of
from app.contract.messages.inputs import InputPicture
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import PARAMETERS, JobSpec, asked_again, pictures_of, recorded
from app.contract.messages.unclip import MOST_DIMENSIONS, MOST_POINTS, numbers_of

PICTURE = InputPicture(sha256="a" * 64, width=64, height=48, content_type="image/png")
OTHER = InputPicture(sha256="b" * 64, width=32, height=32, content_type="image/png")


def ask(embedding: dict[str, Any]) -> JobRequest:
    return JobRequest(prompt="a red circle", image_embedding=embedding)


@pytest.fixture
def takes(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"takes": tuple(PARAMETERS), "tasks": ("text-to-image", "image-variation")})


@pytest.mark.parametrize(
    "asked",
    [
        {"of": {"input": "in_" + "0" * 24}},
        {"text": "a blue star"},
        {"vector": [0.5, -1.25, 3]},
        {"slerp": [{"of": {"input": "in_" + "0" * 24}}, {"text": "a blue star"}], "at": [0, 0.5, 1]},
        {"of": {"b64": "AAAA"}, "diff": {"from": "a red circle", "to": "a blue circle"}, "at": [0, 0.25]},
    ],
)
def test_what_is_asked_is_stored_and_asked_for_again(takes: ModelCard, asked: dict[str, Any]) -> None:
    request = ask(asked)
    pictures = {pointer: PICTURE for pointer, _ in references_of(request)}
    spec = resolve(request, takes, pictures)
    assert pictures_of(spec) == list(pictures.values())
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    record = json.loads(json.dumps(asked_again(recorded(spec, seed=spec.seed))))
    again = JobRequest(**record)
    found = {pointer: PICTURE for pointer, _ in references_of(again)}
    assert resolve(again, takes, found).image_embedding == spec.image_embedding


def test_each_end_of_a_way_is_its_own_picture(takes: ModelCard) -> None:
    ends = [{"of": {"input": "in_" + "0" * 24}}, {"of": {"input": "in_" + "1" * 24}}]
    request = ask({"slerp": ends, "at": [0.5]})
    found = {"/image_embedding/slerp/0/of": PICTURE, "/image_embedding/slerp/1/of": OTHER}
    assert [pointer for pointer, _ in references_of(request)] == [*found]
    embedding = resolve(request, takes, found).image_embedding
    assert embedding is not None
    assert [point.of for point in embedding.points] == [PICTURE, OTHER]


def test_there_is_one_picture_for_each_place(takes: ModelCard) -> None:
    way = {"slerp": [{"text": "a"}, {"text": "b"}], "at": [0, 0.5, 1]}
    for said in ({}, {"num_images": 3}):
        assert resolve(JobRequest(prompt="a", image_embedding=way, **said), takes).num_images == 3
    with pytest.raises(ParamsRejected, match=r"/num_images .*3 places"):
        resolve(JobRequest(prompt="a", image_embedding=way, num_images=2), takes)


def test_numbers_are_stored_as_float32(takes: ModelCard) -> None:
    embedding = resolve(ask({"vector": [0.5, -1.25, 3]}), takes).image_embedding
    assert embedding is not None
    assert embedding.vector is not None
    assert numbers_of(embedding.vector) == (0.5, -1.25, 3.0)
    assert resolve(ask({"vector": embedding.vector}), takes).image_embedding == embedding


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "exactly one"),
        ({"text": "a", "vector": [1]}, "exactly one"),
        ({"slerp": [{"text": "a"}], "at": [0]}, "at least 2"),
        ({"slerp": [{"text": "a"}, {}], "at": [0]}, "exactly one"),
        ({"slerp": [{"text": "a"}, {"text": "b"}]}, "at goes with"),
        ({"text": "a", "at": [0.5]}, "at goes with"),
        ({"text": "a", "diff": {"from": "a", "to": "b"}}, "at goes with"),
        ({"slerp": [{"text": "a"}, {"text": "b"}], "diff": {"from": "a", "to": "b"}, "at": [0]}, "not both"),
        ({"text": "a", "diff": {"from": "a"}, "at": [0]}, "Field required"),
        ({"slerp": [{"text": "a"}, {"text": "b"}], "at": [1.5]}, "less than or equal to 1"),
        ({"slerp": [{"text": "a"}, {"text": "b"}], "at": []}, "at least 1"),
        ({"slerp": [{"text": "a"}, {"text": "b"}], "at": [0.5] * (MOST_POINTS + 1)}, f"at most {MOST_POINTS}"),
        ({"vector": []}, "1 to"),
        ({"vector": [0.0] * (MOST_DIMENSIONS + 1)}, "1 to"),
        ({"vector": [math.nan]}, "finite"),
        ({"vector": [1e300]}, "float32"),
        ({"vector": ["1"]}, "list of numbers"),
        ({"vector": "AAA"}, "base64"),
        ({"vector": "AAAAAAA="}, "base64"),
        ({"vector": "AADAfw=="}, "finite"),
        ({"text": " "}, "visible"),
    ],
)
def test_what_names_no_point_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ask(wrong)
