"""Models behind CLIP embeddings through the whole service: texts, pictures and ways between them, and each picture
drawn again. One `darkroom up` serves StableUnCLIP, Kandinsky 2.2 and Karlo, with a worker for each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from app.contract.messages.kept_spec import asked_again
from app.contract.messages.picture_record import read_record
from tests.engine.tiny_models import EMBEDDING, SIDE, save_tiny_kandinsky, save_tiny_karlo, save_tiny_unclip
from tests.system.conftest import Installation, drawn
from tests.waiting import until
from worker.models.quiet import quiet_libraries

UNCLIP, KANDINSKY, KARLO = "tiny-unclip", "tiny-kandinsky", "tiny-karlo"
QUICK: dict[str, Any] = {"model": UNCLIP, "num_inference_steps": 3, "reproducible": True, "seed": 7}
PRIOR = {"prior": {"num_inference_steps": 2}}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Installation]:
    models = tmp_path_factory.mktemp("models")
    with quiet_libraries():
        save_tiny_unclip(models / UNCLIP)
        save_tiny_kandinsky(models / KANDINSKY)
        save_tiny_karlo(models / KARLO)
    data = tmp_path_factory.mktemp("installation") / "data"
    installation = Installation(data, environment=shared_machine | {"DARKROOM_DEFAULT_MODEL": UNCLIP})
    served = [option for name in (UNCLIP, KANDINSKY, KARLO) for option in ("--model", str(models / name))]
    installation.options = ["--port", str(installation.port), "--data", str(data), "--device", "cpu", *served]
    installation.start_and_wait()
    with installation.client() as client:
        # It is ready with its first model.
        until(lambda: {each["id"] for each in client.get("/v1/models").json()["data"]} >= {UNCLIP, KANDINSKY, KARLO})
    yield installation
    try:
        installation.stop()
        assert f"{UNCLIP} on cpu is ready (worker)" in installation.said, "before the service said that it was"
    finally:
        installation.kill_everything()


@pytest.fixture(scope="module")
def client(installation: Installation) -> Iterator[httpx2.Client]:
    with installation.client() as client:
        yield client


@pytest.fixture(scope="module")
def first(client: httpx2.Client) -> dict[str, Any]:
    """A job that draws from a text."""
    return drawn(client, {"prompt": "a red circle", **QUICK, **PRIOR})


def file_of(client: httpx2.Client, picture: dict[str, Any]) -> bytes:
    return client.get(picture["url"]).raise_for_status().content


def pixels(client: httpx2.Client, picture: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file_of(client, picture))))


def vectors_of(client: httpx2.Client, picture: dict[str, Any]) -> dict[str, np.ndarray]:
    return load(client.get(picture["embedding_url"]).raise_for_status().content)


def test_what_the_model_draws_from_is_announced(client: httpx2.Client) -> None:
    [model] = [each for each in client.get("/v1/models").json()["data"] if each["default"]]
    assert model["tasks"] == ["text-to-image", "image-variation", "embed"]
    assert {"prior", "image_embedding", "noise_level", "start"} <= set(model["takes"])
    assert (model["prior_num_inference_steps"], model["embedding_dimensions"], model["max_noise_level"]) == (
        25,
        EMBEDDING,
        999,
    )


def test_a_picture_of_a_text_tells_its_embedding(client: httpx2.Client, first: dict[str, Any]) -> None:
    assert first["status"] == "succeeded", first
    assert first["progress"]["steps"] == 5
    [picture] = first["images"]
    vectors = vectors_of(client, picture)
    own, text = vectors["image_embedding"], vectors["text_embedding"]
    assert own.shape == (EMBEDDING,)
    cosine = float(own @ text / np.linalg.norm(own) / np.linalg.norm(text))
    assert picture["embedding"] == {"kind": "prior", "cosine_to": {"text": pytest.approx(cosine, abs=1e-5)}}
    assert picture["at"] is None
    assert load(client.get(f"/v1/jobs/{first['id']}/images/0/embedding").content).keys() == vectors.keys()


def test_a_way_from_a_picture_to_a_text_and_each_of_its_pictures_again(
    client: httpx2.Client, first: dict[str, Any]
) -> None:
    """From the record in its file, which has its own place on the way alone. The picture's end is its variation."""
    picture = {"job": first["id"], "index": 0}
    way = {"slerp": [{"of": picture}, {"text": "a blue star"}], "at": [0, 0.5, 1]}
    job = drawn(client, {"image_embedding": way, **QUICK, **PRIOR})
    assert job["status"] == "succeeded", job
    assert [image["at"] for image in job["images"]] == way["at"]
    assert {image["seed"] for image in job["images"]} == {7}
    assert {image["embedding"]["kind"] for image in job["images"]} == {"slerp"}
    near = [image["embedding"]["cosine_to"] for image in job["images"]]
    assert [[*each] for each in near] == [["to"]] * 3, "the end that is a text"
    assert near[0]["to"] < near[1]["to"] < near[2]["to"]
    start, middle, _ = (pixels(client, image) for image in job["images"])
    assert len({image["sha256"] for image in job["images"]}) == 3
    record = read_record(file_of(client, job["images"][1]))
    assert record["image_embedding"]["at"] == [0.5]
    [again] = drawn(client, asked_again(record))["images"]
    assert (pixels(client, again) == middle).all()
    [variation] = drawn(client, {"image_embedding": {"of": picture}, **QUICK})["images"]
    assert variation["embedding"] == {"kind": "image", "cosine_to": {}}
    at_its_end, alone = (vectors_of(client, each)["image_embedding"] for each in (job["images"][0], variation))
    assert (at_its_end == alone).all()
    assert (pixels(client, variation) == start).all()


def test_a_text_difference_of_a_picture_that_is_kept(client: httpx2.Client, first: dict[str, Any]) -> None:
    diff = {"from": "a red circle", "to": "a blue circle"}
    embedding = {"of": {"job": first["id"]}, "diff": diff, "at": [0, 0.4]}
    job = drawn(client, {"image_embedding": embedding, "start": "inverted", **QUICK})
    assert job["status"] == "succeeded", job
    assert job["input"]["scheduler"] == "ddim"
    assert job["progress"]["steps"] == 6
    assert [image["embedding"]["cosine_to"].keys() for image in job["images"]] == [{"from", "to"}] * 2


def test_what_cannot_be_drawn_is_said_where_it_stands(client: httpx2.Client) -> None:
    wrong = [
        ({"image_embedding": {"vector": [1.0] * 5}}, "/image_embedding/vector"),
        ({"image_embedding": {"of": {"job": "job_" + "0" * 24}}}, "/image_embedding/of/job"),
        ({"image_embedding": {"slerp": [{"text": "a"}, {"text": "b"}]}}, "/image_embedding"),
        ({"prompt": "a", "start": "inverted"}, "/start"),
        ({"prompt": "a", "noise_level": 2_000}, "/noise_level"),
        ({}, "/prompt"),
        # What Kandinsky and Karlo are not made for is said by the card of each.
        ({"model": KANDINSKY, "prompt": "a", "noise_level": 1}, "/noise_level"),
        ({"model": KARLO, "prompt": "a", "width": 2 * SIDE}, "/width"),
    ]
    for body, pointer in wrong:
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == 422, body
        assert pointer in [error["pointer"] for error in answer.json()["errors"]], (body, answer.json())


def test_the_priors_vector_of_a_text_is_what_its_picture_is_drawn_from(client: httpx2.Client) -> None:
    """`space: image` of /v1/embeddings, as a unit vector; and a drawing from those numbers."""
    asked = {"model": "tiny-unclip", "input": ["a red circle", "a blue star"], "space": "image", "seed": 7}
    data = client.post("/v1/embeddings", json=asked).raise_for_status().json()["data"]
    [picture] = drawn(client, {"prompt": "a red circle", "seed": 7, "num_inference_steps": 1})["images"]
    own = vectors_of(client, picture)["image_embedding"]
    unit = np.array(data[0]["embedding"])
    assert np.allclose(unit, own / np.linalg.norm(own), atol=1e-4)
    assert not np.allclose(unit, data[1]["embedding"], atol=1e-2)
    [from_numbers] = drawn(client, {"image_embedding": {"vector": data[0]["embedding"]}, **QUICK})["images"]
    assert from_numbers["embedding"]["kind"] == "vector"
    joint = client.post("/v1/embeddings", json={"model": "tiny-unclip", "input": "a red circle"}).json()
    assert len(joint["data"][0]["embedding"]) == EMBEDDING


def drawn_again(client: httpx2.Client, job: dict[str, Any]) -> None:
    """Each picture of a job has the same pixels when it is asked for by the record in its file."""
    for image in job["images"]:
        [again] = drawn(client, asked_again(read_record(file_of(client, image))))["images"]
        assert (pixels(client, again) == pixels(client, image)).all()


def test_kandinsky_draws_texts_pictures_and_ways_between_them(client: httpx2.Client) -> None:
    quick = QUICK | PRIOR | {"model": KANDINSKY, "scheduler": "dpmpp_2m"}
    of_text = drawn(client, quick | {"prompt": "a red circle", "negative_prompt": "a dog"})
    assert of_text["status"] == "succeeded", of_text
    assert (of_text["progress"]["steps"], of_text["images"][0]["embedding"]["kind"]) == (5, "prior")
    drawn_again(client, of_text)
    picture = {"of": {"job": of_text["id"], "index": 0}}
    no_prior = {name: value for name, value in quick.items() if name != "prior"}
    of_picture = drawn(client, no_prior | {"image_embedding": picture, "num_images": 2})
    assert of_picture["status"] == "succeeded", of_picture
    drawn_again(client, of_picture)
    way = drawn(client, quick | {"image_embedding": {"slerp": [picture, {"text": "a blue star"}], "at": [0, 0.5, 1]}})
    assert [image["at"] for image in way["images"]] == [0, 0.5, 1]
    assert (pixels(client, way["images"][0]) == pixels(client, of_picture["images"][0])).all()
    drawn_again(client, way)


def test_karlo_draws_texts_with_a_picture_of_its_own_size(client: httpx2.Client) -> None:
    quick = QUICK | PRIOR | {"model": KARLO, "prompt": "a red circle", "num_images": 2}
    job = drawn(client, {name: value for name, value in quick.items() if name != "scheduler"})
    assert job["status"] == "succeeded", job
    assert {image["embedding"]["kind"] for image in job["images"]} == {"prior"}
    assert {(image["width"], image["height"]) for image in job["images"]} == {(SIDE, SIDE)}
    # The prior, the decoder, seven steps of the super-resolution.
    assert job["progress"]["steps"] == 2 + 3 + 7
    drawn_again(client, job)
    of = {"image_embedding": {"of": {"job": job["id"], "index": 0}}}
    for wrong, pointer in (
        (of, "/image_embedding"),
        ({"width": SIDE // 2}, "/width"),
        ({"start": "inverted"}, "/start"),
    ):
        answer = client.post("/v1/jobs", json=quick | wrong)
        assert answer.status_code == 422, answer.text
        assert pointer in [error["pointer"] for error in answer.json()["errors"]], answer.text


@pytest.mark.parametrize("model", [KANDINSKY, KARLO])
def test_where_its_prior_takes_a_text_to_be_among_pictures(client: httpx2.Client, model: str) -> None:
    """The vector that the drawing of the same seed begins with."""
    asked = {"model": model, "input": ["a red circle"], "space": "image", "seed": 7}
    [answer] = client.post("/v1/embeddings", json=asked).raise_for_status().json()["data"]
    [picture] = drawn(client, {"model": model, "prompt": "a red circle", "seed": 7, "num_inference_steps": 2})["images"]
    own = vectors_of(client, picture)["image_embedding"]
    assert np.allclose(answer["embedding"], own / np.linalg.norm(own), atol=1e-4)
