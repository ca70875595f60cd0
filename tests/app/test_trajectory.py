"""The steps of a picture: asked for, listed with it, served by suffix and by Accept, and gone with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.job import KeptTrajectory, Picture, StoredFile, cost_of
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.objects.names import TRAJECTORY_TYPES, trajectory_key
from app.contract.redis.ownership import Claim
from app.routes.accept import preferred
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_kept_previews import left_in

EVERY = PARAMETERS | {"trajectory": {"every": 1}}
FILES = {kind: f"the {kind}".encode() for kind in TRAJECTORY_TYPES} | {"json": b'{"object":"trajectory","steps":[]}'}


@pytest.fixture
def worker(worker: ScriptedWorker) -> ScriptedWorker:
    """Of a model that keeps steps."""
    worker.card = worker.card.model_copy(update={"takes": ("trajectory",)})
    return worker


def succeed_with_steps(
    worker: ScriptedWorker, claim: Claim, *, files: dict[str, bytes] = FILES, data: bytes = b"a picture"
) -> list[Picture]:
    """End a job whose pictures have a trajectory each."""
    pictures = []
    for index in range(claim.spec.num_images):
        stored = {}
        for kind, content in files.items():
            key = trajectory_key(claim.id, claim.token, index, kind)
            worker.pictures.place.put(key, content, TRAJECTORY_TYPES[kind])
            digest = hashlib.sha256(content).hexdigest()
            stored[kind] = StoredFile(key=key, sha256=digest, bytes=len(content), content_type=TRAJECTORY_TYPES[kind])
        kept = KeptTrajectory(steps=claim.spec.num_inference_steps + 1, files=stored)
        pictures.append(worker._put(claim, index, data).model_copy(update={"trajectory": kept}))
    steps = claim.spec.num_inference_steps
    assert worker.ownership.succeed(claim, pictures, timings={}, warnings=[], steps=steps)
    return pictures


def test_a_picture_says_where_its_steps_are(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, EVERY | {"num_images": 2})
    assert job["input"]["trajectory"] == {"every": 1, "show": ["noisy", "estimate"], "decode": "linear"}
    succeed_with_steps(worker, worker.claim())
    for index, picture in enumerate(client.get(job["urls"]["self"]).json()["images"]):
        kept = picture["trajectory"]
        assert kept["url"].endswith(f"/v1/jobs/{job['id']}/images/{index}/trajectory")
        assert kept["steps"] == 21
        assert client.get(kept["url"]).json() == json.loads(FILES["json"])
        for kind, file in kept["files"].items():
            by_link, by_route = client.get(file["url"]), client.get(f"{kept['url']}.{kind}")
            assert by_link.content == by_route.content == FILES[kind]
            assert by_link.headers["content-type"] == file["content_type"] == TRAJECTORY_TYPES[kind]
            assert by_link.headers["content-disposition"] == (
                f'inline; filename="{job["id"]}-{index}-trajectory.{kind}"'
            )
            assert (file["sha256"], file["bytes"]) == (hashlib.sha256(FILES[kind]).hexdigest(), len(FILES[kind]))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("image/webp", "webp"),
        ("image/*", "webp"),
        ("image/jpeg, image/webp;q=0.5", "jpg"),
        ("application/octet-stream", "safetensors"),
        ("text/html,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "webp"),
        ("application/json;q=0, */*", "safetensors"),
        ("text/html", "json"),
        ("image/webp;q=nan, image/jpeg;q=x, application/json;q=0.1", "json"),
    ],
)
def test_what_a_client_prefers(accept: str, kind: str) -> None:
    assert preferred(accept, TRAJECTORY_TYPES) == kind


def test_one_address_for_every_kind(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, EVERY)
    succeed_with_steps(worker, worker.claim())
    url = f"/v1/jobs/{job['id']}/images/0/trajectory"
    for kind, media_type in TRAJECTORY_TYPES.items():
        answer = client.get(url, headers={"Accept": media_type})
        assert (answer.content, answer.headers["content-type"]) == (FILES[kind], media_type)
        assert "Accept" in answer.headers["vary"]
    part = client.get(f"{url}.safetensors", headers={"Range": "bytes=4-"})
    assert (part.status_code, part.content) == (206, b"safetensors")
    assert client.head(f"{url}.webp").headers["content-length"] == str(len(FILES["webp"]))
    again = client.get(url, headers={"If-None-Match": client.get(url).headers["etag"]})
    assert again.status_code == 304


def test_a_store_that_signs_is_redirected_to_but_not_for_json(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    """What a page reads comes from where the page comes from: a bucket does not let it."""
    worker.announce()
    bucket = {
        "storage_url": "s3://bucket",
        "storage_endpoint": "http://127.0.0.1:9",
        "storage_region": "us-east-1",
        "storage_access_key_id": "id",
        "storage_secret_access_key": "secret",
    }
    with gateway_with(**bucket) as running:
        job = send(running.client, EVERY)
        succeed_with_steps(worker, worker.claim())
        url = f"/v1/jobs/{job['id']}/images/0/trajectory"
        film, said = running.client.get(f"{url}.webp"), running.client.get(f"{url}.json")
    assert film.status_code == 302
    assert film.headers["location"].startswith(f"http://127.0.0.1:9/bucket/images/{job['id']}/")
    assert said.status_code == 503, "the gateway itself asks the bucket, which is not there"


def test_they_go_with_the_job(client: httpx2.Client, worker: ScriptedWorker, picture_folder: Path) -> None:
    job = send(client, EVERY)
    succeed_with_steps(worker, worker.claim())
    link = client.get(job["urls"]["self"]).json()["images"][0]["trajectory"]["files"]["webp"]["url"]
    assert len(list(picture_folder.rglob("*-trajectory.*"))) == 4
    assert client.delete(job["urls"]["self"]).status_code == 204
    assert not left_in(picture_folder)
    assert client.get(link).status_code == 404


def test_nobody_elses(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    ann, bob = ({"Authorization": f"Bearer {letter * 32}"} for letter in "ab")
    with gateway_with(api_keys=f"ann:{'a' * 32},bob:{'b' * 32}") as running:
        job = running.client.post("/v1/jobs", json=EVERY, headers=ann).json()
        succeed_with_steps(worker, worker.claim())
        for suffix in ("", ".json", ".safetensors"):
            path = f"/v1/jobs/{job['id']}/images/0/trajectory{suffix}"
            assert [running.client.get(path, headers=who).status_code for who in (ann, bob, {})] == [200, 404, 401]
        link = running.client.get(job["urls"]["self"], headers=ann).json()["images"][0]["trajectory"]["files"]
        assert running.client.get(link["jpg"]["url"].replace(".jpg", ".json")).status_code == 403


def test_what_is_not_there(client: httpx2.Client, worker: ScriptedWorker) -> None:
    plain = send(client, PARAMETERS)
    worker.succeed(worker.claim())
    shown = client.get(plain["urls"]["self"]).json()["images"][0]
    assert shown["trajectory"] is None
    looked_at = send(client, EVERY)
    succeed_with_steps(worker, worker.claim(), files={kind: FILES[kind] for kind in ("json", "safetensors")})
    waiting = send(client, EVERY)
    cases = {
        f"{plain['id']}/images/0/trajectory": "kept no steps of this picture: ask for a trajectory",
        f"{plain['id']}/images/0/trajectory.webp": "kept no steps of this picture",
        f"{looked_at['id']}/images/0/trajectory.gif": ".json, .safetensors, .webp, .jpg",
        f"{looked_at['id']}/images/0/trajectory.webp": "has no .webp: its frames could not be made",
        f"{looked_at['id']}/images/1/trajectory": "has 1 pictures",
        f"{waiting['id']}/images/0/trajectory": "is queued",
    }
    for path, words in cases.items():
        answer = client.get(f"/v1/jobs/{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/picture-not-found"), path
        assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"every": 0}, "/trajectory/every"),
        ({"every": 10_001}, "/trajectory/every"),
        ({"every": 1.5}, "/trajectory/every"),
        ({"show": []}, "/trajectory/show"),
        ({"show": ["noise"]}, "/trajectory/show/0"),
        ({"show": ["noisy", "noisy"]}, "/trajectory"),
        ({"decode": "taesd"}, "/trajectory/decode"),
        ({"each": 1}, "/trajectory/each"),
        (True, "/trajectory"),
    ],
)
def test_what_cannot_be_asked_for(client: httpx2.Client, asked: Any, pointer: str) -> None:
    answer = client.post("/v1/jobs", json=PARAMETERS | {"trajectory": asked})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert error["detail"]


def test_too_many_pictures_and_a_model_that_keeps_none(card: ModelCard) -> None:
    taking = card.model_copy(update={"takes": ("trajectory",), "max_images": 100, "max_work": 10**12})
    for of, pictures, words in ((taking, 65, "1 to 64 pictures"), (card, 1, "starter does not take")):
        with pytest.raises(ParamsRejected) as refused:
            resolve(JobRequest(prompt="a", trajectory={}, num_images=pictures), of)
        [error] = refused.value.errors
        assert (error.pointer, words in error.detail) == ("/trajectory", True)
    assert resolve(JobRequest(prompt="a", trajectory={}, num_images=64), taking).trajectory is not None


def test_frames_by_the_autoencoder_cost_what_they_take(card: ModelCard) -> None:
    taking = card.model_copy(update={"takes": ("trajectory",)})

    def cost(**parameters: Any) -> float:
        return cost_of(resolve(JobRequest(prompt="a", num_inference_steps=20, guidance_scale=4, **parameters), taking))

    plain = cost()
    assert cost(trajectory={}) == plain
    assert cost(trajectory={"decode": "vae"}) == pytest.approx(plain * (40 + 3 * 2 * 21) / 40)
    assert cost(trajectory={"decode": "vae", "every": 10, "show": ["noisy"]}) == pytest.approx(plain * (40 + 9) / 40)
