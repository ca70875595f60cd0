"""Pictures that come in, through the whole service: the bundled model repaints where a mask is white."""

from __future__ import annotations

import base64
import io
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import replicate
import webuiapi
from PIL import Image

from app.contract.messages.picture_record import read_record
from recipes.starter.edit_sheet import CASES, EDITS, rows
from tests.system.conftest import COMMAND, Installation, drawn
from tests.waiting import WAIT_SECONDS
from worker.images import encode

SIDE = 128
MIDDLE = slice(14, 112)
"""Of both sides: the circle that is repainted, and what is around it."""

OTHER = "a green square on a purple background"
CIRCLE = {"prompt": "a red circle on a blue background", "seed": 7}


def uploaded(client: httpx2.Client, pixels: np.ndarray) -> dict[str, Any]:
    """A reference to a picture that the service has now."""
    answer = client.post("/v1/inputs", content=png(pixels), headers={"content-type": "image/png"})
    assert answer.status_code in (200, 201), answer.text
    return {"input": answer.json()["id"]}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def middle_mask() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[MIDDLE, MIDDLE] = 255
    return mask


@pytest.fixture(scope="module")
def circle(installation: Installation) -> tuple[str, np.ndarray]:
    """The job that drew a red circle on blue, and its pixels."""
    with installation.client() as client:
        job = drawn(client, CIRCLE)
        return job["id"], pixels_of(client.get(job["images"][0]["url"]).content)


def test_a_shape_is_recoloured_by_a_mask_and_the_rest_stays(
    installation: Installation, circle: tuple[str, np.ndarray], tmp_path: Path
) -> None:
    job_id, before = circle
    with installation.client() as client:
        asked = {
            "prompt": "a yellow circle on a blue background",
            "seed": 11,
            "image": {"job": job_id, "index": 0},
            "mask_image": uploaded(client, middle_mask()),
            "strength": 1.0,
            "reproducible": True,
        }
        job = drawn(client, asked)
        data = client.get(job["images"][0]["url"]).content
    after = pixels_of(data)
    outside = np.ones((SIDE, SIDE), bool)
    outside[MIDDLE, MIDDLE] = False
    # What the autoencoder makes of the same picture is near, not equal; at the seam it mixes both.
    assert np.abs(after - before)[outside].mean() < 12
    centre = np.median(after[56:72, 56:72].reshape(-1, 3), 0)
    assert centre[0] > 150, "yellow is red and green"
    assert centre[1] > 150, "yellow is red and green"
    assert centre[2] < 110
    assert np.median(before[56:72, 56:72].reshape(-1, 3), 0)[1] < 110, "it was red"
    record = read_record(data)
    assert record["strength"] == 1.0
    assert {record[name]["width"] for name in ("image", "mask_image")} == {SIDE}

    picture = tmp_path / "picture.png"
    picture.write_bytes(data)
    done = reproduce(installation, picture)
    assert (done.returncode, done.stdout) == (0, "identical: every pixel\n"), done.stderr
    gone = tmp_path / "gone.png"
    nowhere = record["image"] | {"sha256": "0" * 64}
    gone.write_bytes(encode(after.astype(np.uint8), output_format="png", record=record | {"image": nowhere}))
    refused = reproduce(installation, gone)
    assert refused.returncode == 2
    assert "image.sha256 is no picture that you sent in, or is not kept any more" in refused.stderr


def reproduce(installation: Installation, picture: Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "reproduce", str(picture), "--url", installation.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)


def test_a_picture_in_the_request_is_drawn_anew_as_far_as_asked(
    installation: Installation, circle: tuple[str, np.ndarray]
) -> None:
    """With its own words it stays as it is; with others it goes the further, the stronger."""
    _, before = circle
    reference = {"b64": base64.b64encode(png(before.astype(np.uint8))).decode()}
    far = []
    with installation.client() as client:
        for prompt, strength in ((CIRCLE["prompt"], 0.2), (OTHER, 0.1), (OTHER, 0.9)):
            job = drawn(client, {"prompt": prompt, "seed": 3, "image": reference, "strength": strength})
            assert job["progress"]["steps"] == int(job["input"]["num_inference_steps"] * strength)
            far.append(np.abs(pixels_of(client.get(job["images"][0]["url"]).content) - before).mean())
    assert far[0] < 10 < far[1] < far[2], far


def test_the_same_in_the_words_of_the_web_ui(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its public client: a picture, then a mask over it that says what is to stay."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = webuiapi.WebUIApi(port=installation.port)
    words = {"width": SIDE, "height": SIDE, "cfg_scale": 3.0, "steps": 30}
    first = client.txt2img(prompt="a red circle on a (blue:1.1) background", seed=7, **words).image
    stays = Image.fromarray(255 - middle_mask())
    answer = client.img2img(
        images=[first],
        prompt="a yellow circle on a blue background",
        seed=11,
        mask_image=stays,
        inpainting_mask_invert=1,
        inpainting_fill=1,
        inpaint_full_res=False,
        denoising_strength=1.0,
        **words,
    )
    client.session.close()
    before, after = (np.asarray(each.convert("RGB")).astype(int) for each in (first, answer.image))
    outside = np.ones((SIDE, SIDE), bool)
    outside[MIDDLE, MIDDLE] = False
    assert np.abs(after - before)[outside].mean() < 12
    centres = [np.median(each[56:72, 56:72].reshape(-1, 3), 0) for each in (before, after)]
    assert centres[0][1] < 110 < 150 < centres[1][1], "it was red, and yellow is red and green"
    assert answer.info["unused"] == []
    assert read_record(base64.b64decode(answer.json["images"][0]))["prompt_syntax"] == "a1111"


def test_the_same_by_openais_edits_and_by_replicates(
    installation: Installation, circle: tuple[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the official clients: one picture, one seed, three ways to say the same, and every pixel is equal."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _, before = circle
    file, prompt = png(before.astype(np.uint8)), "a yellow circle on a blue background"
    ours = {"seed": 11, "num_inference_steps": 8, "reproducible": True}
    hole = np.dstack([before.astype(np.uint8), 255 - middle_mask()[..., :1]])
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key="any") as client:
        answer = client.images.edit(image=file, mask=png(hole), prompt=prompt, extra_body=ours)
        [image] = answer.data or []
        by_openai = base64.b64decode(image.b64_json or "")
    theirs = replicate.Client(api_token="any", base_url=installation.url)
    given = ours | {"prompt": prompt, "image": io.BytesIO(file), "mask": io.BytesIO(png(middle_mask()))}
    [output] = theirs.run("darkroom/starter", input=given)
    by_replicate = output.read()
    theirs._client.close()
    with installation.client() as client:
        pictures = {"image": uploaded(client, before.astype(np.uint8)), "mask_image": uploaded(client, middle_mask())}
        job = drawn(client, ours | {"prompt": prompt} | pictures)
        by_ours = client.get(job["images"][0]["url"]).content
    drawn_so = [pixels_of(data) for data in (by_ours, by_openai, by_replicate)]
    assert (drawn_so[0] != before).any()
    assert (drawn_so[0] == drawn_so[1]).all()
    assert (drawn_so[0] == drawn_so[2]).all()


def test_a_strength_that_leaves_nothing_to_do_is_refused_at_the_door(
    installation: Installation, circle: tuple[str, np.ndarray]
) -> None:
    job_id, _ = circle
    body = CIRCLE | {"image": {"job": job_id}, "strength": 0.1, "num_inference_steps": 8}
    with installation.client() as client:
        answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/strength", "too_little")
    assert "at least 0.125" in error["detail"]


def test_shapes_are_added_and_removed(installation: Installation) -> None:
    """In most of the pictures that docs/starter-edits.webp shows."""
    added, removed = (next(case for case in CASES if case.words == words) for words in ("added", "removed"))
    with installation.client() as client:
        pictures, _ = rows(client, [added, removed])
    sheets = [pictures[: EDITS + 2], pictures[EDITS + 2 :]]
    yellow, blue = [
        [((np.abs(edited[:, 64:].astype(int) - colour)).max(2) < 70).sum() for edited in sheet]
        for sheet, colour in zip(sheets, ((250, 220, 40), (20, 90, 230)), strict=True)
    ]
    assert yellow[0] < 50
    assert sum(count > 200 for count in yellow[2:]) >= EDITS - 1, yellow
    assert blue[0] > 200
    assert sum(count < 50 for count in blue[2:]) >= EDITS - 1, blue
