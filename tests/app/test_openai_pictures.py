"""Pictures that come in by OpenAI's images API: edited as a whole, and within a mask."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import redis
from PIL import Image

from app.contract.messages.card import Adapter
from app.contract.messages.inputs import InputPicture
from app.contract.redis.ownership import Claim
from app.edge import guard
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_openai import PICTURE, official
from tests.pictures import file_of, noise, picture_in
from tests.waiting import WAIT_SECONDS
from worker.images import encode

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
"""The client's own, of images.create_variation."""

PHOTO = noise(96, 64)
FILE = file_of(PHOTO)
EDITS = "/v1/images/edits"


def open_on_the_left(width: int = 96, height: int = 64) -> Image.Image:
    """A mask as people make one: the picture with a hole in it."""
    mask = PHOTO.resize((width, height)).convert("RGBA")
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return mask


@pytest.fixture
def painter(running: Running, worker: ScriptedWorker) -> ScriptedWorker:
    """A worker whose model draws from pictures."""
    worker.card = worker.card.model_copy(
        update={
            "takes": ("image", "strength", "mask_image", "mask_blur", "control", "loras", "trajectory", "expect"),
            "tasks": ("text-to-image", "image-to-image", "inpainting"),
            "loras": (Adapter(name="ink"), Adapter(name="oil")),
            "controls": (Adapter(name="canny"),),
            "max_controls": 1,
        }
    )
    worker.announce()
    return worker


@pytest.fixture
def client(running: Running, painter: ScriptedWorker) -> Iterator[openai.OpenAI]:
    with official(running) as client:
        yield client


def drawing(painter: ScriptedWorker, ask: Callable[[], Any]) -> tuple[Any, Claim]:
    """What `ask` answers while the worker draws its job, and the job."""

    def draw() -> Claim:
        claim = painter.claim()
        painter.succeed(claim)
        return claim

    with ThreadPoolExecutor() as pool:
        job = pool.submit(draw)
        answer = ask()
        return answer, job.result(WAIT_SECONDS)


def stored(folder: Path, picture: InputPicture | None) -> Image.Image:
    """The file that the worker would read."""
    assert picture is not None
    return picture_in((folder / "inputs" / "default" / picture.sha256).read_bytes())


def test_an_edit(client: openai.OpenAI, painter: ScriptedWorker, picture_folder: Path) -> None:
    answer, job = drawing(
        painter,
        lambda: client.images.edit(
            model="starter",
            image=("photo.png", FILE),
            prompt="a red circle",
            n=2,
            size="auto",
            output_format="webp",
            output_compression=70,
            background="auto",
            quality="high",
            complexity="low",
            input_fidelity="high",
            user="u7",
        ),
    )
    spec = job.spec
    assert (spec.prompt, spec.strength, spec.mask_image, spec.num_images) == ("a red circle", 0.8, None, 2)
    assert (spec.width, spec.height, spec.output_format, spec.output_quality) == (96, 64, "webp", 70)
    assert np.array_equal(np.asarray(stored(picture_folder, spec.image)), np.asarray(PHOTO))
    assert [base64.b64decode(image.b64_json) for image in answer.data] == [PICTURE, PICTURE]
    assert (answer.size, answer.output_format, answer.job_id) == ("96x64", "webp", job.id)


def test_a_mask_repaints_what_is_transparent(
    client: openai.OpenAI, painter: ScriptedWorker, picture_folder: Path
) -> None:
    mask = file_of(open_on_the_left())
    _, job = drawing(painter, lambda: client.images.edit(image=FILE, mask=mask, prompt="a", size="128x64"))
    read = np.asarray(stored(picture_folder, job.spec.mask_image))
    assert (read[:, :48].min(), read[:, 48:].max(), read.ndim) == (255, 0, 2)
    assert (job.spec.strength, job.spec.width, job.spec.height) == (1.0, 128, 64)


def test_a_mask_may_be_larger_and_in_webp(client: openai.OpenAI, painter: ScriptedWorker, picture_folder: Path) -> None:
    mask = file_of(open_on_the_left(192, 128), "WEBP", lossless=True)
    _, job = drawing(painter, lambda: client.images.edit(image=[FILE], mask=mask, prompt="a"))
    assert stored(picture_folder, job.spec.mask_image).size == (192, 128)


def test_our_parameters_are_fields_of_the_form(client: openai.OpenAI, painter: ScriptedWorker) -> None:
    ours = {
        "strength": 0.55,
        "num_inference_steps": 9,
        "guidance_scale": 3,
        "seed": 7,
        "reproducible": True,
        "negative_prompt": "blurry",
        "scheduler": "euler",
        "metadata": {"order": "17"},
        "loras": json.dumps([{"name": "ink", "weight": 0.5}]),
    }
    _, job = drawing(painter, lambda: client.images.edit(image=FILE, prompt="a", extra_body=ours))
    spec = job.spec
    assert (spec.strength, spec.num_inference_steps, spec.guidance_scale, spec.seed) == (0.55, 9, 3.0, 7)
    assert (spec.reproducible, spec.negative_prompt, spec.scheduler) == (True, "blurry", "euler")
    assert [(lora.name, lora.weight) for lora in spec.loras] == [("ink", 0.5)]


def test_what_is_nested_is_written_as_for_any_other_route(client: openai.OpenAI, painter: ScriptedWorker) -> None:
    """The client spells it with brackets, which no caller sees."""
    ours = {
        "loras": [{"name": "ink", "weight": 0.5}, {"name": "oil", "weight": 1}],
        "trajectory": {"every": 2, "show": ["noisy"]},
        "control": [{"model": "canny", "image": {"b64": base64.b64encode(FILE).decode()}, "end": 0.8}],
        "expect": ["a cat", "7"],
    }
    _, job = drawing(painter, lambda: client.images.edit(image=FILE, prompt="a", extra_body=ours))
    spec = job.spec
    assert [(lora.name, lora.weight) for lora in spec.loras] == [("ink", 0.5), ("oil", 1.0)]
    assert spec.trajectory is not None
    assert (spec.trajectory.every, spec.trajectory.show) == (2, ("noisy",))
    assert [(each.model, each.image, each.end) for each in spec.control] == [("canny", spec.image, 0.8)]
    assert spec.expect == ("a cat", "7")


def test_objects_one_by_one_are_the_same(running: Running, painter: ScriptedWorker) -> None:
    """As the client for JavaScript sends them; the one for Python sends all names before all weights."""
    members = [("loras[][name]", "ink"), ("loras[][weight]", "0.5"), ("loras[][name]", "oil"), ("loras[][weight]", "1")]
    files = [("image", FILE), *((name, (None, text)) for name, text in [("prompt", "a"), *members])]
    _, job = drawing(painter, lambda: running.client.post(EDITS, files=files))
    assert [(lora.name, lora.weight) for lora in job.spec.loras] == [("ink", 0.5), ("oil", 1.0)]


@pytest.mark.parametrize("loras", [[{"name": "ink"}, {"weight": 1, "name": "oil"}], [[{"name": "ink"}]]], ids=str)
def test_where_nobody_can_tell_what_belongs_together_json_is_asked_for(client: openai.OpenAI, loras: Any) -> None:
    """The form has all names, then all weights: oil's could be ink's."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=FILE, prompt="a", extra_body={"loras": loras})
    assert (caught.value.param, caught.value.code) == ("loras", "not_clear")


def test_what_a_form_leaves_empty_is_not_given(painter: ScriptedWorker, running: Running) -> None:
    fields = {"prompt": "a", "model": "", "n": "", "strength": "", "stream": "", "metadata": "", "seed": "-1"}
    fields |= {"metadata": '{"order": "17"}', "num_inference_steps": "9.0"}
    answer, job = drawing(painter, lambda: running.client.post(EDITS, data=fields, files={"image[]": FILE}))
    assert answer.status_code == 200
    assert (job.spec.num_images, job.spec.strength, job.spec.num_inference_steps) == (1, 0.8, 9)
    assert running.client.get(f"/v1/jobs/{job.id}").json()["metadata"] == {"order": "17"}


def test_a_picture_that_is_here_already(painter: ScriptedWorker, running: Running) -> None:
    """Our own words for a picture go through the form as well."""
    known = running.client.post("/v1/inputs", content=FILE, headers={"Content-Type": "image/png"}).json()
    files = {"prompt": (None, "a"), "image": (None, json.dumps({"input": known["id"]}))}
    _, job = drawing(painter, lambda: running.client.post(EDITS, files=files))
    assert job.spec.image is not None
    assert job.spec.image.sha256 == known["sha256"]


def test_a_stream_shows_the_picture_on_the_way(client: openai.OpenAI, painter: ScriptedWorker) -> None:
    def draw() -> None:
        claim = painter.claim()
        for step in range(1, 20):
            painter.ownership.preview(claim, 0, step, 20, base64.b64encode(b"on the way").decode())
            painter.progress(claim, step)
        painter.succeed(claim)

    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(draw)
        with client.images.edit(image=FILE, prompt="a", stream=True, partial_images=1) as stream:
            events: Any = list(stream)
        drawn.result(WAIT_SECONDS)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert [base64.b64decode(event.b64_json) for event in events] == [b"on the way", PICTURE]


def test_asked_again_it_is_the_same_job(running: Running, painter: ScriptedWorker) -> None:
    """By its pictures as well: they are named by what they hold."""

    def send(file: bytes) -> httpx2.Response:
        headers = {"Idempotency-Key": "once"}
        return running.client.post(EDITS, data={"prompt": "a"}, files={"image": file}, headers=headers)

    first, job = drawing(painter, lambda: send(FILE))
    assert send(FILE).json()["job_id"] == first.json()["job_id"] == job.id
    other = send(file_of(noise(32, 32)))
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency-key-reused")


WHITE = file_of(Image.new("RGB", (96, 64), "white"))
OPAQUE = file_of(PHOTO.convert("RGBA"))
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"image": []}, "image", "missing"),
    "two pictures": ({"image": [FILE, FILE]}, "image", "too_many"),
    "no picture in it": ({"image": b"zanzibar"}, "image", "not_a_picture"),
    "half of one": ({"image": FILE[: len(FILE) // 2]}, "image", "broken"),
    "a large one": ({"image": bytes(21_000_000)}, "image", "too_large"),
    "an empty file": ({"image": b""}, "image", "empty"),
    "a black and white mask": ({"mask": WHITE}, "mask", "not_transparent"),
    "an opaque mask": ({"mask": OPAQUE}, "mask", "not_transparent"),
    "a mask that is none": ({"mask": b"zanzibar"}, "mask", "not_a_picture"),
    "a mask of another shape": ({"mask": file_of(open_on_the_left(64, 64))}, "mask", "another_shape"),
    "no words": ({"prompt": ""}, "prompt", "blank_prompt"),
    "a size that does not fit": ({"size": "97x64"}, "size", "not_a_multiple"),
    "too many pictures": ({"n": 11}, "n", "less_than_equal"),
    "no number": ({"extra_body": {"strength": "zanzibar"}}, "strength", "float_type"),
    "no strength": ({"extra_body": {"strength": 0}}, "strength", "too_little"),
    "too much strength": ({"extra_body": {"strength": 1.5}}, "strength", "less_than_equal"),
    "another picture too": ({"extra_body": {"image": {"input": "in_" + "0" * 24}}}, "image", "said_twice"),
    "an unknown field": ({"extra_body": {"stepz": 3}}, "stepz", "extra_forbidden"),
    "transparency": ({"background": "transparent"}, "background", "literal_error"),
    "gif": ({"output_format": "gif"}, "output_format", "literal_error"),
    "blur without a mask": ({"extra_body": {"mask_blur": 4}}, "mask_blur", "needs_mask_image"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(client: openai.OpenAI, redis_client: redis.Redis, case: str) -> None:
    wrong, param, code = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(**({"image": FILE, "prompt": "a"} | wrong))
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert "zanz" not in error.response.text
    assert redis_client.keys("darkroom:job:*") == []


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.edit(model="gpt-image-1", image=FILE, prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_that_draws_from_words_only(
    running: Running, worker: ScriptedWorker, picture_folder: Path, redis_client: redis.Redis
) -> None:
    """Nothing is kept of what nobody will draw from."""
    worker.announce()
    before = redis_client.keys("darkroom:input:*")
    with official(running) as client, pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=FILE, mask=file_of(open_on_the_left()), prompt="a")
    assert (caught.value.param, caught.value.code) == ("image", "not_taken")
    assert "image is something that starter does not take" in caught.value.message
    assert redis_client.keys("darkroom:input:*") == before == []


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
RAW: dict[str, tuple[dict[str, Any], int, str]] = {
    "text": ({"content": b"a", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),
    "no body": ({}, 400, "malformed-form"),
    "no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "malformed-form",
    ),
    "no form": ({"content": b"zanzibar", "headers": MULTIPART}, 400, "malformed-form"),
    "a field twice": (
        {"files": [("image", FILE), ("prompt", (None, "a")), ("prompt", (None, "b"))]},
        400,
        "said_twice",
    ),
    "a list and a text": (
        {"files": [("image", FILE), ("metadata", (None, "{}")), ("metadata[]", (None, "b"))]},
        400,
        "said_twice",
    ),
    "an element that is a text and an object": (
        {"files": [("image", FILE), ("expect[]", (None, "a")), ("expect[][b]", (None, "c"))]},
        400,
        "said_twice",
    ),
    "a name instead of a file": ({"files": {"prompt": (None, "a"), "image": (None, "photo.png")}}, 400, "not_a_file"),
    "a file that nobody knows": (
        {"files": {"image": FILE, "markup": FILE}, "data": {"prompt": "a"}},
        400,
        "unknown_file",
    ),
}


@pytest.mark.parametrize("case", list(RAW))
def test_forms_that_are_refused(running: Running, painter: ScriptedWorker, case: str) -> None:
    sent, status, code = RAW[case]
    answer = running.client.post(EDITS, **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "zanz" not in answer.text


def test_more_than_two_pictures_can_be(
    running: Running, painter: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients write all of it before they read, and are heard out."""
    monkeypatch.setattr(guard, "DRAIN_SECONDS", WAIT_SECONDS)
    with official(running) as client, pytest.raises(openai.APIStatusError) as caught:
        client.images.edit(image=bytes(43_000_000), prompt="a")
    assert (caught.value.status_code, caught.value.code) == (413, "body-too-large")


DRAWN = encode(
    np.zeros((64, 96, 3), np.uint8),
    output_format="png",
    record={"prompt": "a red circle", "negative_prompt": "blurry", "negative_prompt_given": True, "seed": 7},
)


def test_a_variation_has_the_words_of_its_picture(client: openai.OpenAI, painter: ScriptedWorker) -> None:
    answer, job = drawing(painter, lambda: client.images.create_variation(image=DRAWN, n=2, size="256x256", user="u7"))
    spec = job.spec
    assert (spec.prompt, spec.negative_prompt, spec.strength, spec.num_images) == ("a red circle", "blurry", 0.6, 2)
    assert (spec.width, spec.height, spec.mask_image, len(answer.data)) == (256, 256, None, 2)
    assert spec.image is not None
    assert spec.seed != 7


def test_a_variation_by_other_words(client: openai.OpenAI, painter: ScriptedWorker) -> None:
    ours = {"prompt": "a star", "strength": 0.3}
    _, job = drawing(painter, lambda: client.images.create_variation(image=DRAWN, extra_body=ours))
    assert (job.spec.prompt, job.spec.negative_prompt, job.spec.strength) == ("a star", None, 0.3)


@pytest.mark.parametrize(
    ("sent", "param", "code"),
    [
        ({"image": FILE}, "prompt", "missing"),
        ({"image": b"zanzibar"}, "prompt", "missing"),
        (
            {"image": encode(np.zeros((64, 64, 3), np.uint8), output_format="png", record={"prompt": 3})},
            "prompt",
            "missing",
        ),
        ({"image": b"zanzibar", "extra_body": {"prompt": "a"}}, "image", "not_a_picture"),
        ({"image": DRAWN, "extra_body": {"strength": 0}}, "strength", "too_little"),
        ({"image": DRAWN, "n": 11}, "n", "less_than_equal"),
    ],
)
def test_variations_that_are_refused(client: openai.OpenAI, sent: Any, param: str, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.create_variation(**sent)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert "zanz" not in caught.value.response.text


def test_a_variation_is_a_form(running: Running, painter: ScriptedWorker) -> None:
    answer = running.client.post("/v1/images/variations", json={"images": [{"image_url": "data:"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported-media-type")


def test_a_variation_has_no_mask(running: Running, painter: ScriptedWorker) -> None:
    answer = running.client.post("/v1/images/variations", files={"image": DRAWN, "mask": DRAWN})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_file")


@pytest.fixture
def unclip(running: Running, painter: ScriptedWorker) -> ScriptedWorker:
    """A worker whose model draws from a picture's embedding."""
    update = {"takes": ("image_embedding", "noise_level", "prior"), "tasks": ("text-to-image", "image-variation")}
    painter.card = painter.card.model_copy(update={**update, "embedding_dimensions": 4, "max_noise_level": 999})
    painter.announce()
    return painter


def test_a_variation_is_drawn_from_the_embedding_where_the_model_can(
    client: openai.OpenAI, unclip: ScriptedWorker
) -> None:
    """By the picture alone, or with words beside; the words of the picture's own file are not read."""
    for said in ({}, {"prompt": "a red circle", "noise_level": 5}):
        answer, job = drawing(unclip, lambda: client.images.create_variation(image=DRAWN, n=2, extra_body=said))  # noqa: B023
        embedding = job.spec.image_embedding
        assert embedding is not None
        assert embedding.of is not None
        assert (embedding.of.width, embedding.of.height) == (96, 64)
        assert (job.spec.image, job.spec.strength, job.spec.num_images) == (None, None, 2)
        assert (job.spec.prompt, job.spec.noise_level) == (said.get("prompt", ""), said.get("noise_level", 0))
        assert len(answer.data) == 2


def test_what_such_a_variation_cannot_have_is_said_in_openais_words(
    client: openai.OpenAI, unclip: ScriptedWorker
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.create_variation(image=DRAWN, extra_body={"strength": 0.5})
    assert refused.value.param == "strength"
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.create_variation(image=("a.png", b"no picture", "image/png"))
    assert refused.value.param == "image"
