"""Previews that are kept: listed with their picture, served like it, and gone with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
import redis

from app.contract.messages.job import Picture, Sheet, new_job_id, new_token
from app.contract.objects.names import (
    TRAJECTORY,
    TRAJECTORY_TYPES,
    image_key,
    parse_key,
    sheet_key,
    trajectory_key,
)
from app.contract.redis import keys
from app.contract.redis.ownership import Claim
from app.jobs.housekeeping import Housekeeper
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_housekeeping import housekeeper, store
from tests.app.test_jobs import PARAMETERS, send
from tests.waiting import until

__all__ = ["housekeeper", "store"]

KEPT = PARAMETERS | {"preview_every": 5, "keep_previews": True}
SHEET = b"\xff\xd8\xff sheet"


def succeed_with_sheet(
    worker: ScriptedWorker, claim: Claim, *, sheet: bytes = SHEET, data: bytes = b"a picture", columns: int = 3
) -> list[Picture]:
    """End a job whose pictures have three previews of 8 x 8 pixels each."""
    pictures = []
    for index in range(claim.spec.num_images):
        key = sheet_key(claim.id, claim.token, index)
        worker.pictures.place.put(key, sheet, "image/jpeg")
        kept = Sheet(
            key=key, sha256=hashlib.sha256(sheet).hexdigest(), bytes=len(sheet), content_type="image/jpeg",
            width=8, height=8, columns=columns, steps=(5, 10, 15),
        )  # fmt: skip
        pictures.append(worker._put(claim, index, data).model_copy(update={"previews": kept}))
    steps = claim.spec.num_inference_steps
    assert worker.ownership.succeed(claim, pictures, timings={}, warnings=[], steps=steps)
    return pictures


def left_in(folder: Path) -> list[Path]:
    return list((folder / "images").rglob("*.*"))


def test_a_picture_says_where_its_previews_are(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, KEPT | {"num_images": 2})
    assert job["input"]["keep_previews"] is True
    succeed_with_sheet(worker, worker.claim())
    shown = client.get(job["urls"]["self"]).json()
    for index, picture in enumerate(shown["images"]):
        previews = picture["previews"]
        by_link, by_route = client.get(previews["url"]), client.get(f"/v1/jobs/{job['id']}/images/{index}/previews")
        assert by_link.content == by_route.content == SHEET
        assert by_link.headers["content-type"] == "image/jpeg"
        assert by_link.headers["content-disposition"] == f'inline; filename="{job["id"]}-{index}-previews.jpg"'
        del previews["url"]
        assert previews == {
            "sha256": hashlib.sha256(SHEET).hexdigest(), "bytes": len(SHEET), "content_type": "image/jpeg",
            "width": 8, "height": 8, "columns": 3, "steps": [5, 10, 15],
        }  # fmt: skip


def test_a_store_that_signs_is_redirected_to(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    bucket = {
        "storage_url": "s3://bucket",
        "storage_endpoint": "http://127.0.0.1:9",
        "storage_region": "us-east-1",
        "storage_access_key_id": "id",
        "storage_secret_access_key": "secret",
    }
    with gateway_with(**bucket) as running:
        job = send(running.client, KEPT)
        succeed_with_sheet(worker, worker.claim())
        answer = running.client.get(f"/v1/jobs/{job['id']}/images/0/previews")
        link = running.client.get(job["urls"]["self"]).json()["images"][0]["previews"]["url"]
    for url in (answer.headers["location"], link):
        assert url.startswith(f"http://127.0.0.1:9/bucket/images/{job['id']}/")
        assert "0-previews.jpg?" in url
        assert "X-Amz-Signature=" in url
    assert answer.status_code == 302


def test_they_go_with_the_job(client: httpx2.Client, worker: ScriptedWorker, picture_folder: Path) -> None:
    job = send(client, KEPT)
    succeed_with_sheet(worker, worker.claim())
    link = client.get(job["urls"]["self"]).json()["images"][0]["previews"]["url"]
    assert list(picture_folder.rglob("*-previews.jpg"))
    assert client.delete(job["urls"]["self"]).status_code == 204
    assert not left_in(picture_folder)
    assert client.get(link).status_code == 404


def test_a_job_that_kept_none_says_so(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, PARAMETERS)
    worker.succeed(worker.claim())
    assert client.get(job["urls"]["self"]).json()["images"][0]["previews"] is None
    answer = client.get(f"/v1/jobs/{job['id']}/images/0/previews")
    assert answer.status_code == 404
    assert "keep_previews" in answer.json()["detail"]


def test_they_need_previews(client: httpx2.Client) -> None:
    for parameters in ({"keep_previews": True}, {"keep_previews": True, "preview_every": 0}):
        answer = client.post("/v1/jobs", json=PARAMETERS | parameters)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["pointer"], "preview_every" in error["detail"]) == ("/keep_previews", True)


def test_nobody_elses(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    ann, bob = ({"Authorization": f"Bearer {letter * 32}"} for letter in "ab")
    with gateway_with(api_keys=f"ann:{'a' * 32},bob:{'b' * 32}") as running:
        job = running.client.post("/v1/jobs", json=KEPT, headers=ann).json()
        succeed_with_sheet(worker, worker.claim())
        path = f"/v1/jobs/{job['id']}/images/0/previews"
        assert [running.client.get(path, headers=who).status_code for who in (ann, bob, {})] == [200, 404, 401]
        link = running.client.get(job["urls"]["self"], headers=ann).json()["images"][0]["previews"]["url"]
        assert running.client.get(link.replace("-previews", "")).status_code == 403, "a link is for one object"


@pytest.mark.anyio
async def test_the_sweeper_takes_what_an_attempt_left(
    client: httpx2.Client,
    worker: ScriptedWorker,
    picture_folder: Path,
    redis_client: redis.Redis,
    housekeeper: Housekeeper,
) -> None:
    """Stored, and then the job failed before it could say so."""
    send(client, KEPT)
    claim = worker.claim()
    worker.pictures.place.put(sheet_key(claim.id, claim.token, 0), SHEET, "image/jpeg")
    worker.pictures.place.put(image_key(claim.id, claim.token, 0, "png"), b"a picture", "image/png")
    worker.fail(claim)
    assert len(left_in(picture_folder)) == 2
    redis_client.zadd(keys.ORPHANS, {f"{claim.id}/{claim.token}": 1})
    redis_client.delete(keys.REAPER_LOCK)
    await housekeeper.round()
    until(lambda: not left_in(picture_folder))


def test_keys() -> None:
    job_id, token = new_job_id(), new_token()
    key = sheet_key(job_id, token, 3)
    parts = parse_key(key)
    assert (parts.index, parts.part, parts.extension, parts.content_type) == (3, "-previews", "jpg", "image/jpeg")
    assert not parse_key(image_key(job_id, token, 3, "jpeg")).part
    for kind, content_type in TRAJECTORY_TYPES.items():
        parts = parse_key(trajectory_key(job_id, token, 3, kind))
        assert (parts.part, parts.extension, parts.content_type) == (TRAJECTORY, kind, content_type)
    with pytest.raises(ValueError, match="not a picture's key"):
        trajectory_key(job_id, token, 3, "gif")
    for wrong in (key.replace("-previews", "-other"), key.replace("3-", "-"), key + "x", key.replace("-p", "--p")):
        with pytest.raises(ValueError, match="not a picture's key"):
            parse_key(wrong)
