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

from app.contract.messages.card import Adapter
from app.replicate import files
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


def test_the_client_for_javascript_sends_what_is_said_of_a_file_as_a_file(
    running: Running, painter: ScriptedWorker
) -> None:
    """replicate 1.4.0, files.create: both are Blobs, which FormData gives a file name, and the type of a Buffer is
    application/octet-stream."""
    content = ("buffer_1795846801", FILE, "application/octet-stream")
    form = {"content": content, "metadata": ("blob", b"{}", "application/json")}
    sent = running.client.post("/v1/files", files=form)
    assert (sent.status_code, sent.json()["content_type"]) == (201, "image/png"), sent.text


def test_files_are_listed(client: Client) -> None:
    """The newest first; one that was deleted is not there."""
    assert client.files.list() == []
    first, second, third = (client.files.create(io.BytesIO(file_of(noise(16, 8 * n)))) for n in (1, 2, 3))
    client.files.delete(second.id)
    assert [file.id for file in client.files.list()] == [third.id, first.id]
    assert client.files.list()[1].checksums == first.checksums


def test_files_by_pages(running: Running, painter: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE", 2)
    sent = [running.client.post("/v1/files", files={"content": file_of(noise(8, n))}).json()["id"] for n in (8, 9, 10)]
    page = running.client.get("/v1/files").json()
    assert [file["id"] for file in page["results"]] == sent[:0:-1]
    last = running.client.get(page["next"]).json()
    assert ([file["id"] for file in last["results"]], last["next"]) == (sent[:1], None)
    refused = running.client.get("/v1/files", params={"cursor": "zanzibar"})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "cursor_unknown")


@pytest.fixture
def guided(painter: ScriptedWorker) -> ScriptedWorker:
    """Its model has one ControlNet."""
    painter.card = painter.card.model_copy(update={"controls": (Adapter(name="canny"),), "max_controls": 1})
    painter.announce()
    return painter


@pytest.mark.parametrize("strategy", ["base64", "url"])
def test_a_picture_that_guides(client: Client, guided: ScriptedWorker, picture_folder: Path, strategy: Any) -> None:
    given = {"prompt": "a", "control_image": io.BytesIO(FILE), "control_strength": 0.5}
    _, job = drawing(guided, lambda: client.run(MODEL, input=given, file_encoding_strategy=strategy))
    [control] = job.spec.control
    assert (control.model, control.scale, job.spec.image) == ("canny", 0.5, None)
    assert np.array_equal(np.asarray(stored(picture_folder, control.image)), np.asarray(PHOTO))


def test_one_of_several_controlnets_is_named(running: Running, guided: ScriptedWorker) -> None:
    several = (Adapter(name="canny"), Adapter(name="depth"))
    guided.card = guided.card.model_copy(update={"controls": several})
    guided.announce()
    path, given = f"/v1/models/{MODEL}/predictions", {"prompt": "a", "control_image": DATA_URL}
    refused = running.client.post(path, json={"input": given}).json()["errors"]
    assert [(error["pointer"], error["code"]) for error in refused] == [("/input/control_type", "missing")]
    assert "canny, depth" in refused[0]["detail"]
    assert running.client.post(path, json={"input": given | {"control_type": "depth"}}).status_code == 201
    assert [control.model for control in guided.claim().spec.control] == ["depth"]
    version = running.client.get(f"/v1/models/{MODEL}").json()["latest_version"]
    shown = version["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert shown["control_type"]["enum"] == ["canny", "depth"]
    assert shown["control_image"]["format"] == "uri"


NOT_GUIDED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"control_image": "data:image/png;base64,aGFsbG8="}, "/input/control_image", "not_a_picture"),
    "a number": ({"control_image": 7}, "/input/control_image", "string_type"),
    "another ControlNet": ({"control_image": DATA_URL, "control_type": "x"}, "/input/control_type", "unknown"),
    "too strong": (
        {"control_image": DATA_URL, "control_strength": 3},
        "/input/control_strength",
        "less_than_equal",
    ),
    "a name alone": ({"control_type": "canny"}, "/input/control_type", "needs_control_image"),
    "strength alone": ({"control_strength": 0.5}, "/input/control_strength", "needs_control_image"),
}


@pytest.mark.parametrize("case", list(NOT_GUIDED))
def test_guides_that_are_refused(running: Running, guided: ScriptedWorker, case: str) -> None:
    given, pointer, code = NOT_GUIDED[case]
    answer = running.client.post(f"/v1/models/{MODEL}/predictions", json={"input": {"prompt": "a"} | given})
    assert answer.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]


def test_a_model_without_controlnets(running: Running, worker: ScriptedWorker) -> None:
    worker.announce()
    given = {"prompt": "a", "control_image": DATA_URL}
    answer = running.client.post(f"/v1/models/{MODEL}/predictions", json={"input": given})
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [
        ("/input/control_image", "not_taken")
    ]


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
    assert not {"control_image", "control_type", "control_strength"} & set(shown)
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
