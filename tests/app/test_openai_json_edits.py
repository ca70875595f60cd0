"""OpenAI's edits whose body is JSON: pictures are data: URLs or ids of files. Sent as programs without a client do."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis
from PIL import Image

from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_openai_pictures import EDITS, FILE, PHOTO, drawing, open_on_the_left, stored
from tests.app.test_openai_pictures import painter as painter
from tests.pictures import file_of, noise


def data_url(file: bytes, kind: str = "png") -> dict[str, str]:
    return {"image_url": f"data:image/{kind};base64,{base64.b64encode(file).decode()}"}


def sent_in(running: Running, file: bytes) -> dict[str, str]:
    answer = running.client.post("/v1/inputs", content=file, headers={"Content-Type": "image/png"})
    return {"file_id": answer.json()["id"]}


MASK = file_of(open_on_the_left())


@pytest.mark.parametrize("by_id", [False, True])
def test_an_edit_within_a_mask(running: Running, painter: ScriptedWorker, picture_folder: Path, by_id: bool) -> None:
    """The mask is read as one of a form is: what is transparent is repainted, also of one that was sent in before."""
    image, mask = (sent_in(running, file) if by_id else data_url(file) for file in (FILE, MASK))
    wanted = {"images": [image], "mask": mask, "prompt": "a red circle", "n": 2, "moderation": "low", "seed": 7}
    answer, job = drawing(painter, lambda: running.client.post(EDITS, json=wanted))
    assert answer.status_code == 200, answer.text
    spec = job.spec
    assert (spec.prompt, spec.num_images, spec.seed, spec.strength) == ("a red circle", 2, 7, 1.0)
    assert np.array_equal(np.asarray(stored(picture_folder, spec.image)), np.asarray(PHOTO))
    read = np.asarray(stored(picture_folder, spec.mask_image))
    assert (read[:, :48].min(), read[:, 48:].max(), read.ndim) == (255, 0, 2)


def test_large_pictures(running: Running, painter: ScriptedWorker) -> None:
    """More than a body has that holds none."""
    large = noise(384, 192)
    hole = large.convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 9, 9))
    wanted = {"images": [data_url(file_of(large))], "mask": data_url(file_of(hole)), "prompt": "a", "size": "128x64"}
    assert len(str(wanted)) > 200_000
    answer, job = drawing(painter, lambda: running.client.post(EDITS, json=wanted))
    assert answer.status_code == 200, answer.text
    assert job.spec.image is not None
    assert (job.spec.image.width, job.spec.width) == (384, 128)


def test_asked_again_it_is_the_same_job(running: Running, painter: ScriptedWorker) -> None:
    headers = {"Idempotency-Key": "once"}
    known = sent_in(running, FILE)
    json = {"images": [known], "prompt": "a"}
    first, _ = drawing(painter, lambda: running.client.post(EDITS, json=json, headers=headers))
    again = running.client.post(EDITS, json=json, headers=headers)
    assert again.json()["job_id"] == first.json()["job_id"]


IMAGE = data_url(FILE)
ID = "in_" + "0" * 24
LINK = {"image_url": "https://example.org/zanzibar.png"}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no pictures": ({"images": []}, "images", "too_short"),
    "two pictures": ({"images": [IMAGE, IMAGE]}, "images", "too_long"),
    "nothing named": ({"images": [{}]}, "images.0", "not_one_picture"),
    "both named": ({"images": [IMAGE | {"file_id": ID}]}, "images.0", "not_one_picture"),
    "something else named": ({"images": [{"path": "zanzibar"}]}, "images.0.path", "extra_forbidden"),
    "a text": ({"images": ["zanzibar"]}, "images.0", "model_type"),
    "a file of nobody": ({"images": [{"file_id": ID}]}, "images.0.file_id", "input_not_found"),
    "no id": ({"images": [{"file_id": "zanzibar"}]}, "images.0.file_id", "string_pattern_mismatch"),
    "no base64": ({"images": [{"image_url": "data:image/png;base64,zanzibar!"}]}, "images.0.image_url", "not_base64"),
    "no picture": ({"images": [data_url(b"zanzibar")]}, "images.0.image_url", "not_a_picture"),
    "a link": ({"images": [LINK]}, "images.0.image_url", "not_fetched"),
    "a link in capitals": (
        {"images": [{"image_url": "HTTPS://example.org/z.png"}]},
        "images.0.image_url",
        "not_fetched",
    ),
    "a mask of nobody": ({"mask": {"file_id": ID}}, "mask.file_id", "input_not_found"),
    "a mask that is a link": ({"mask": LINK}, "mask.image_url", "not_fetched"),
    "an opaque mask": ({"mask": IMAGE}, "mask.image_url", "not_transparent"),
    "a mask of another shape": (
        {"mask": data_url(file_of(open_on_the_left(64, 64)))},
        "mask.image_url",
        "another_shape",
    ),
    "no words": ({"prompt": None}, "prompt", "missing"),
    "another picture too": ({"image": {"input": ID}}, "image", "said_twice"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused(running: Running, painter: ScriptedWorker, redis_client: redis.Redis, case: str) -> None:
    wrong, param, code = REFUSED[case]
    answer = running.client.post(EDITS, json={"images": [IMAGE], "prompt": "a"} | wrong)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert "zanz" not in answer.text
    assert redis_client.keys("darkroom:job:*") == []


@pytest.mark.parametrize("body", [b"zanzibar", b"[]", b'{"images": [], "images": []}', b'"a"', b"null"])
def test_what_is_no_edit(running: Running, painter: ScriptedWorker, body: bytes) -> None:
    answer = running.client.post(EDITS, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed-json")
    assert "zanz" not in answer.text


def test_a_model_that_draws_from_words_only(
    running: Running, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    worker.announce()
    answer = running.client.post(EDITS, json={"images": [IMAGE], "mask": data_url(MASK), "prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_taken")
    assert redis_client.keys("darkroom:input:*") == []


class TestTheModelIsGone:
    """What a key brought in is answered by its job, whatever has become of the model."""

    def forget(self, running: Running, redis_client: redis.Redis) -> None:
        """As `darkroom models forget`."""
        for key in redis_client.keys("darkroom:model*"):
            redis_client.delete(key)
        running.app.state.services.registry._asked_at = float("-inf")

    @pytest.mark.parametrize("kind", ["form", "json"])
    def test_a_replay(self, running: Running, painter: ScriptedWorker, redis_client: redis.Redis, kind: str) -> None:
        def send(file: bytes = FILE, key: str = "once") -> httpx2.Response:
            headers, words = {"Idempotency-Key": key}, {"prompt": "a", "model": "starter"}
            if kind == "form":
                return running.client.post(EDITS, data=words, files={"image": file}, headers=headers)
            return running.client.post(EDITS, json=words | {"images": [data_url(file)]}, headers=headers)

        first, _ = drawing(painter, send)
        self.forget(running, redis_client)
        again = send()
        assert (again.status_code, again.json().get("job_id")) == (200, first.json()["job_id"])
        other = send(file_of(Image.new("RGB", (96, 64))))
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency-key-reused")
        unknown = send(key="another")
        assert unknown.json()["error"]["code"] in ("model_not_found", "no-model-yet")
