"""Pictures that come in by Replicate's API: as file handles, data: URLs and links."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from replicate.client import Client
from replicate.exceptions import ReplicateError

from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_openai_pictures import FILE, PHOTO, drawing, stored
from tests.app.test_openai_pictures import painter as painter
from tests.app.test_replicate import MODEL, official
from tests.pictures import file_of, noise

MASK = file_of(noise(96, 64, "L"))
DATA_URL = "data:image/png;base64," + base64.b64encode(FILE).decode()


@pytest.fixture
def client(running: Running, painter: ScriptedWorker) -> Iterator[Client]:
    with official(running) as client:
        yield client


@pytest.mark.parametrize("strategy", ["base64", "url"])
def test_file_handles(client: Client, painter: ScriptedWorker, picture_folder: Path, strategy: Any) -> None:
    """As the client sends them: uploaded first, or as data: URLs."""
    given = {"prompt": "a", "image": io.BytesIO(FILE), "mask": io.BytesIO(MASK), "prompt_strength": 0.6}
    _, job = drawing(painter, lambda: client.run(MODEL, input=given, file_encoding_strategy=strategy))
    assert (job.spec.strength, job.spec.width, job.spec.height) == (0.6, 96, 64)
    assert np.array_equal(np.asarray(stored(picture_folder, job.spec.image)), np.asarray(PHOTO))
    assert stored(picture_folder, job.spec.mask_image).mode == "L"


def test_a_large_data_url(client: Client, painter: ScriptedWorker) -> None:
    """More than a body has that holds no pictures."""
    given = {"prompt": "a", "image": io.BytesIO(file_of(noise(384, 192, "RGB"))), "width": 96, "height": 64}
    _, job = drawing(painter, lambda: client.run(MODEL, input=given, file_encoding_strategy="base64"))
    assert job.spec.image is not None
    assert (job.spec.image.width, job.spec.strength) == (384, 0.8)


def test_files(client: Client) -> None:
    file = client.files.create(io.BytesIO(FILE), filename="photo.png", metadata={"order": "17"})
    assert (file.content_type, file.checksums["sha256"], file.urls["get"].endswith(file.id)) == (
        "image/png",
        file.etag,
        True,
    )
    assert client.files.get(file.id).id == file.id == client.files.create(io.BytesIO(FILE)).id
    assert client.files.delete(file.id)
    with pytest.raises(ReplicateError) as caught:
        client.files.get(file.id)
    assert caught.value.status == 404


def test_the_schema_shows_pictures_where_they_are_taken(client: Client, painter: ScriptedWorker) -> None:
    def fields() -> dict[str, Any]:
        version = client.models.get(MODEL).latest_version
        assert version is not None
        return version.openapi_schema["components"]["schemas"]["Input"]["properties"]  # type: ignore[no-any-return]

    shown = fields()
    assert {(shown[name]["type"], shown[name]["format"]) for name in ("image", "mask")} == {("string", "uri")}
    assert (shown["prompt_strength"]["type"], "strength" in shown) == ("number", False)


def test_the_schema_of_a_model_that_draws_from_words_only(running: Running, worker: ScriptedWorker) -> None:
    worker.announce()
    version = running.client.get("/v1/models/darkroom/starter").json()["latest_version"]
    shown = version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert not {"image", "mask", "prompt_strength", "mask_blur", "prompt_syntax"} & set(shown)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no base64": ({"image": "zanzibar!"}, "/input/image", "not_base64"),
    "no picture": ({"image": "data:image/png;base64,aGFsbG8="}, "/input/image", "not_a_picture"),
    "a link": ({"image": "https://example.org/zanzibar.png"}, "/input/image", "not_fetched"),
    "a file of nobody": (
        {"image": f"https://example.org/v1/files/in_{'0' * 24}"},
        "/input/image",
        "input_not_found",
    ),
    "a number": ({"image": 7}, "/input/image", "string_type"),
    "a mask alone": ({"mask": DATA_URL}, "/input/mask", "needs_image"),
    "a mask of another shape": (
        {"image": DATA_URL, "mask": "data:image/png;base64," + base64.b64encode(file_of(noise(64, 64))).decode()},
        "/input/mask",
        "another_shape",
    ),
    "strength alone": ({"prompt_strength": 0.5}, "/input/prompt_strength", "needs_image"),
    "strength": ({"image": DATA_URL, "prompt_strength": 2}, "/input/prompt_strength", "less_than_equal"),
    "twice": ({"image": DATA_URL, "strength": 0.5, "prompt_strength": 0.6}, "/input/strength", "said_twice"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(running: Running, painter: ScriptedWorker, redis_client: redis.Redis, case: str) -> None:
    given, pointer, code = REFUSED[case]
    answer = running.client.post(f"/v1/models/{MODEL}/predictions", json={"input": {"prompt": "a"} | given})
    assert answer.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert "zanz" not in answer.text
    assert redis_client.keys("darkroom:job:*") == []


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ({"content": b"zanzibar"}, 422, "not_a_picture"),
        ({"file": FILE}, 422, "not_one_file"),
        ({"content": FILE, "more": FILE}, 422, "not_one_file"),
    ],
)
def test_files_that_are_refused(running: Running, painter: ScriptedWorker, files: Any, status: int, code: str) -> None:
    answer = running.client.post("/v1/files", files=files)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
