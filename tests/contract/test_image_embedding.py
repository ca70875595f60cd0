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
from app.contract.messages.job import cost_of
from app.contract.messages.kept_spec import asked_again, recorded
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import PARAMETERS, JobSpec, pictures_of, seed_of
from app.contract.messages.unclip import MOST_DIMENSIONS, MOST_POINTS, numbers_of

PICTURE = InputPicture(sha256="a" * 64, width=64, height=48, content_type="image/png")
OTHER = InputPicture(sha256="b" * 64, width=32, height=32, content_type="image/png")


def ask(embedding: dict[str, Any]) -> JobRequest:
    return JobRequest(prompt="a red circle", image_embedding=embedding)


@pytest.fixture
def takes(card: ModelCard) -> ModelCard:
    """With a prior, and an image encoder."""
    tasks = {"takes": tuple(PARAMETERS), "tasks": ("text-to-image", "image-variation")}
    space = {"prior_num_inference_steps": 25, "prior_guidance_scale": 4.0, "embedding_dimensions": 3}
    return card.model_copy(update={**tasks, **space, "max_noise_level": 999})


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
    # A picture's record has its own place on a way alone.
    place = {"at": spec.image_embedding.at[:1]} if spec.image_embedding and spec.image_embedding.at else {}
    assert spec.image_embedding is not None
    assert resolve(again, takes, found).image_embedding == spec.image_embedding.model_copy(update=place)


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


PICTURED = {"of": {"input": "in_" + "0" * 24}}


@pytest.mark.parametrize(
    ("said", "changes", "wrong"),
    [
        ({"image_embedding": PICTURED}, {"tasks": ("text-to-image",)}, "/image_embedding/of needs a model with"),
        ({"image_embedding": {"text": "a"}}, {"prior_num_inference_steps": None}, "/image_embedding/text goes through"),
        ({"image_embedding": {"vector": [1, 2]}}, {}, "/image_embedding/vector must have 3 numbers with this model"),
        (
            {"image_embedding": {"slerp": [PICTURED, {"vector": [1]}], "at": [0]}},
            {},
            "/image_embedding/slerp/1/vector must have 3 numbers",
        ),
        (
            {"image_embedding": {**PICTURED, "diff": {"from": "a", "to": "b"}, "at": [0]}},
            {"prior_num_inference_steps": None},
            "/image_embedding/diff needs a prior",
        ),
        (
            {"image_embedding": {**PICTURED, "diff": {"from": "a", "to": "a"}, "at": [0]}},
            {},
            "/image_embedding/diff/to is the same text as from",
        ),
        ({"image_embedding": PICTURED, "prior": {"num_inference_steps": 5}}, {}, "/prior counts only where a text"),
        ({"prior": {"num_inference_steps": 500}}, {}, "/prior/num_inference_steps must be 1 to"),
        ({"prior": {"num_inference_steps": 1}}, {"prior_min_steps": 2}, "/prior/num_inference_steps must be 2 to"),
        ({"noise_level": 1_000}, {}, "/noise_level must be 0 to 999"),
        ({"start": "inverted"}, {}, "/start inverted goes with image_embedding.of"),
        ({"start": "inverted", "image_embedding": PICTURED, "scheduler": "euler"}, {}, "/scheduler must be ddim"),
        ({}, {"tasks": ("image-variation",)}, "/image_embedding is what starter draws from"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_draw_from_is_said_where_it_stands(
    takes: ModelCard, said: dict[str, Any], changes: dict[str, Any], wrong: str
) -> None:
    request = JobRequest(**{"prompt": "a red circle"} | said)
    pictures = {pointer: PICTURE for pointer, _ in references_of(request)}
    with pytest.raises(ParamsRejected) as rejected:
        resolve(request, takes.model_copy(update=changes), pictures)
    assert wrong in str(rejected.value)


def test_who_names_a_picture_needs_no_words(takes: ModelCard) -> None:
    for words in ({}, {"prompt": ""}, {"prompt": None}):
        request = JobRequest(image_embedding=PICTURED, **words)
        spec = resolve(request, takes, {"/image_embedding/of": PICTURE})
        assert spec.prompt == ""
        assert JobRequest(**asked_again(recorded(spec, seed=1))).prompt == ""
    for words in ({}, {"prompt": ""}, {"prompt": " ", "image_embedding": PICTURED}):
        with pytest.raises(ValidationError, match="prompt"):
            JobRequest(**words)


def test_a_way_back_to_noise_is_walked_with_ddim_unless_said_otherwise(takes: ModelCard) -> None:
    request = JobRequest(image_embedding=PICTURED, start="inverted")
    spec = resolve(request, takes, {"/image_embedding/of": PICTURE})
    assert spec.scheduler == "ddim"
    assert cost_of(spec) == 2 * cost_of(spec.model_copy(update={"start": "noise"}))


def test_pictures_on_a_way_share_a_seed_and_each_records_its_own_place(takes: ModelCard) -> None:
    way = {"slerp": [{"text": "a"}, {"text": "b"}], "at": [0, 0.5, 1]}
    spec = resolve(JobRequest(image_embedding=way, seed=5), takes)
    assert [seed_of(spec, k) for k in range(3)] == [5, 5, 5]
    again = JobRequest(**asked_again(recorded(spec, seed=5, index=1)))
    assert resolve(again, takes).image_embedding.at == (0.5,)
    plain = resolve(JobRequest(prompt="a", num_images=2, seed=5), takes)
    assert [seed_of(plain, k) for k in range(2)] == [5, 6]


@pytest.mark.parametrize(("asked", "pointer"), [({"best_of": 5}, "/best_of"), ({"min_probability": 0.5}, "/min_prob")])
def test_nobody_chooses_among_places_on_a_way(takes: ModelCard, asked: dict[str, Any], pointer: str) -> None:
    """Each is drawn once: there is no sixth of five places."""
    many = takes.model_copy(update={"max_images": 50, "max_work": 10**12})
    way = {"slerp": [{"text": "a"}, {"text": "b"}], "at": [0, 0.5, 1]}
    with pytest.raises(ParamsRejected, match=f"{pointer}.*each place is drawn once"):
        resolve(JobRequest(prompt="a", image_embedding=way, **asked), many)


@pytest.mark.parametrize(("asked", "pointer"), [({"best_of": 2}, "/best_of"), ({"min_probability": 0.5}, "/min_prob")])
def test_pictures_are_judged_by_words_only(takes: ModelCard, asked: dict[str, Any], pointer: str) -> None:
    """Beside a picture the prompt may be missing. What was kept then was what fits no text at all, ""."""
    pictures = {"/image_embedding/of": PICTURE}
    with pytest.raises(ParamsRejected, match=f"{pointer}.*needs expect, or a prompt"):
        resolve(JobRequest(image_embedding=PICTURED, **asked), takes, pictures)
    for words in ({"prompt": "a red circle"}, {"expect": ["a red circle"]}):
        assert resolve(JobRequest(image_embedding=PICTURED, **asked, **words), takes, pictures).is_judged
