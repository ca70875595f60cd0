"""Parameters are declared once, and what is stored of them changes only under a new number."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from app.contract.messages.card import Adapter, ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.messages.kept_spec import asked_again, read_stored, recorded, stored
from app.contract.messages.parameter import Parameter, Undeclared, parameters_of
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import PARAMETERS, Delivery, JobSpec, PictureSpec
from app.contract.redis import keys

FIRST = {
    "model": "str",
    "prompt": "str",
    "negative_prompt": "str",
    "width": "int",
    "height": "int",
    "num_inference_steps": "int",
    "guidance_scale": "float",
    "scheduler": "str",
    "seed": "int",
    "reproducible": "bool",
    "num_images": "int",
    "output_format": "Literal['png', 'jpeg', 'webp']",
    "output_quality": "int | None",
    "preview_every": "int",
    "keep_previews": "bool",
}
STORED = {
    2: FIRST,
    3: FIRST | {"guidance_rescale": "float"},
    4: FIRST | {"guidance_rescale": "float", "clip_skip": "int | None"},
    5: FIRST
    | {
        "guidance_rescale": "float",
        "clip_skip": "int | None",
        "prompt_syntax": "Literal['plain', 'a1111']",
        "image": "app.contract.messages.inputs.InputPicture | None",
        "strength": "float | None",
        "mask_image": "app.contract.messages.inputs.InputPicture | None",
        "mask_blur": "float",
        "control": "tuple[app.contract.messages.inputs.Control, ...]",
        "loras": "tuple[app.contract.messages.inputs.Lora, ...]",
        "negative_prompt": "str | None",
        "original_size": "tuple[int, int] | None",
        "crops_coords_top_left": "tuple[int, int] | None",
        "target_size": "tuple[int, int] | None",
    },
}
STORED[6] = STORED[5] | {
    "prior": "app.contract.messages.unclip.Prior | None",
    "image_embedding": "app.contract.messages.unclip.ImageEmbedding | None",
    "noise_level": "int",
    "start": "Literal['noise', 'inverted']",
    "best_of": "int | None",
    "expect": "tuple[str, ...]",
    "min_probability": "float | None",
    "trajectory": "app.contract.messages.trajectory.Trajectory | None",
}
STORED[7] = STORED[6] | {
    "guidance_end": "float",
    "cache": "app.contract.messages.deep_cache.Cache | None",
}
"""What a worker of each record version reads of a job. Never changed: a new set of fields is a new version."""

OF_BEFORE = (
    '{"model":"starter","prompt":"a red circle","negative_prompt":"","width":128,"height":128,'
    '"num_inference_steps":20,"guidance_scale":4.0,"scheduler":"ddim","seed":7,"num_images":2,"output_format":"png",'
    '"output_quality":null,"preview_every":3,"keep_previews":true,"reproducible":true}'
)
"""A job's spec as it was stored before its fields were declared here."""

SINCE_THEN = {
    "negative_prompt": None,
    "guidance_rescale": 0.0,
    "clip_skip": None,
    "prompt_syntax": "plain",
    "image": None,
    "strength": None,
    "mask_image": None,
    "mask_blur": 0.0,
    "control": (),
    "loras": (),
    "original_size": None,
    "crops_coords_top_left": None,
    "target_size": None,
    "prior": None,
    "image_embedding": None,
    "noise_level": 0,
    "start": "noise",
    "guidance_end": 1.0,
    "cache": None,
    "best_of": None,
    "expect": (),
    "min_probability": None,
    "trajectory": None,
}
"""What such a job has of the parameters that came later, and of one that could not be missing then: nothing that
changes its picture."""


def fields_of(spec: type[BaseModel]) -> dict[str, str]:
    shown = {name: field.annotation for name, field in spec.model_fields.items()}
    return {name: kind.__name__ if isinstance(kind, type) else str(kind) for name, kind in shown.items()}


def complaint(fields: dict[str, str], version: int) -> str | None:
    """What is wrong with these stored fields under this number."""
    known = {name: kind.replace("typing.", "") for name, kind in fields.items()}
    if known == STORED.get(version):
        return None
    changed = sorted(dict(known.items() ^ STORED[max(STORED)].items()))
    return (
        f"{', '.join(changed)}: a worker of version {max(STORED)} would leave it out, and draw something else. "
        f"Raise RECORD_VERSION in keys.py and add the new fields to STORED."
    )


def test_stored_fields_change_only_with_the_record_version() -> None:
    assert complaint(fields_of(JobSpec), keys.RECORD_VERSION) is None
    assert max(STORED) == keys.RECORD_VERSION


def test_the_check_sees_a_field_without_a_new_version() -> None:
    """The check itself."""

    class More(JobSpec):
        tile_overlap: int = 0

    class Other(JobSpec):
        seed: float  # type: ignore[assignment]

    for changed in (More, Other, PictureSpec):
        assert complaint(fields_of(changed), keys.RECORD_VERSION)
        assert complaint(fields_of(changed), keys.RECORD_VERSION + 1)
    assert "tile_overlap: a worker of version" in str(complaint(fields_of(More), keys.RECORD_VERSION))


def test_records_of_before_are_read(card: ModelCard) -> None:
    spec = read_stored(OF_BEFORE)
    assert spec.model_dump() == json.loads(OF_BEFORE) | SINCE_THEN
    request = {name: value for name, value in json.loads(OF_BEFORE).items() if name not in ("model", "negative_prompt")}
    assert resolve(JobRequest(**request), card) == spec


def test_pictures_of_before_are_asked_for_again() -> None:
    """What stands in their records beside the parameters, or was put there by somebody, is not sent."""
    asked = {"model": "starter", "prompt": "a red circle", "negative_prompt": "a dog", "width": 128, "seed": 8}
    others = {"job_id": "job_1", "index": 1, "solver": {"class": "DDIM"}, "model_hash": "0" * 64, "bucket": 2}
    strange = {"num_images": 1_000, "webhook": {"url": "http://example.org"}, "metadata": {"a": "b"}}
    assert asked_again(asked | others | strange | {"output_quality": None}) == asked
    assert "negative_prompt" not in asked_again(asked | {"negative_prompt": ""}), "it stood there for a missing one"


def test_a_record_repeats_what_was_asked_for() -> None:
    record = recorded(read_stored(OF_BEFORE), seed=8)
    left_out = {"num_images", "preview_every", "keep_previews"}
    told = json.loads(OF_BEFORE) | SINCE_THEN | {"seed": 8, "negative_prompt": ""}
    assert record == {name: value for name, value in told.items() if name not in left_out and value not in (None, ())}
    assert asked_again(record) == {name: value for name, value in record.items() if name != "negative_prompt"}


@pytest.mark.parametrize("negative", [None, "", "a dog"])
def test_a_missing_negative_prompt_and_an_empty_one_are_told_apart_wherever_they_are_stored(
    card: ModelCard, negative: str | None
) -> None:
    """And in a form that gateways of before read, whose negative prompt is a text."""
    spec = resolve(JobRequest(prompt="a red circle", negative_prompt=negative), card)
    assert spec.negative_prompt == negative
    assert read_stored(stored(spec)) == spec
    assert isinstance(json.loads(stored(spec))["negative_prompt"], str)
    record = json.loads(json.dumps(recorded(spec, seed=spec.seed)))
    assert JobRequest(**asked_again(record)).negative_prompt == negative


def test_every_stored_field_can_be_asked_for_and_is_part_of_one_thing() -> None:
    assert JobRequest.model_fields.keys() >= JobSpec.model_fields.keys() == PARAMETERS.keys()
    assert not PictureSpec.model_fields.keys() & Delivery.model_fields.keys()
    for name, parameter in PARAMETERS.items():
        assert JobRequest.model_fields[name].description == parameter.about


def test_a_field_without_a_declaration_stops_the_start() -> None:
    class Careless(PictureSpec):
        tile_overlap: int = 0

    with pytest.raises(Undeclared, match=r"Careless\.tile_overlap needs a Parameter"):
        parameters_of(Careless)


def test_limits_are_checked_where_a_value_is_used() -> None:
    class Bounded(BaseModel):
        scale: Annotated[float, Parameter(least=0, most=2)]

    check = parameters_of(Bounded)["scale"].check
    for good in (0, 1.5, 2):
        check("scale", good)
    for bad, said in ((-0.1, "at least 0"), (2.5, "at most 2"), (float("nan"), "finite"), (float("inf"), "finite")):
        with pytest.raises(ValueError, match=f"scale must be .*{said}"):
            check("scale", bad)


PICTURE = {"sha256": "a" * 64, "width": 64, "height": 48, "content_type": "image/png"}


def test_what_only_some_models_take_is_refused_by_the_others(card: ModelCard) -> None:
    asked = {
        "guidance_end": 0.5,
        "prompt_syntax": "a1111",
        "image": PICTURE,
        "strength": 0.5,
        "mask_image": PICTURE,
        "mask_blur": 2,
        "control": [{"model": "canny", "image": PICTURE}],
        "loras": [{"name": "ink"}],
        "original_size": [512, 768],
        "crops_coords_top_left": [0, 64],
        "target_size": [1024, 1024],
        "prior": {"num_inference_steps": 5},
        "image_embedding": {"of": PICTURE},
        "noise_level": 3,
        "start": "inverted",
        "cache": {"interval": 3},
        "best_of": 4,
        "expect": ["a red circle"],
        "min_probability": 0.5,
        "trajectory": {"every": 2},
    }
    assert asked.keys() == {name for name, parameter in PARAMETERS.items() if parameter.announced}
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a red circle", **asked), card)
    assert [error.pointer.strip("/") for error in refused.value.errors] == [*asked]
    nothing = {"guidance_end": 1, "prompt_syntax": "plain", "mask_blur": 0, "control": [], "loras": []}
    assert resolve(JobRequest(prompt="a red circle", **nothing), card).loras == ()


def test_pictures_and_adapters_are_recorded_and_asked_for_again(card: ModelCard) -> None:
    """What a record says of a picture is a reference to it."""
    takes = card.model_copy(
        update={
            "tasks": ("image-to-image",),
            "takes": tuple(PARAMETERS),
            "controls": (Adapter(name="canny"),),
            "loras": (Adapter(name="ink"),),
            "max_controls": 1,
        }
    )
    request = JobRequest(
        prompt="a red circle",
        image={"input": "in_" + "0" * 24},
        strength=0.5,
        control=[{"model": "canny", "image": {"b64": "AAAA"}, "scale": 0.5}],
        loras=[{"name": "ink", "weight": 0.8}],
    )
    picture = InputPicture.model_validate(PICTURE)
    spec = resolve(request, takes, {"/image": picture, "/control/0/image": picture})
    assert spec.control[0].image == spec.image == picture
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    record = asked_again(recorded(spec, seed=spec.seed))
    json.dumps(record)
    again = JobRequest(**record)
    assert (again.image.sha256, again.control[0].scale, again.loras[0].weight) == ("a" * 64, 0.5, 0.8)


@pytest.mark.parametrize(
    "wrong", [{}, {"input": "in_" + "0" * 24, "b64": "AAAA"}, {"index": 0}, {"b64": "AAAA", "index": 1}]
)
def test_a_reference_names_one_picture(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"exactly one|goes with job"):
        JobRequest(prompt="a red circle", image=wrong)
