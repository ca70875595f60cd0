"""Pictures over HTTP: to their owner, and by signed link."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS, send

DATA = bytes(range(256)) * 4


@pytest.fixture
def done(client: httpx2.Client, worker: ScriptedWorker) -> dict[str, Any]:
    """A job that has its picture."""
    job = send(client)
    worker.succeed(worker.claim(), data=DATA)
    finished: dict[str, Any] = client.get(job["urls"]["self"]).json()
    return finished


def test_the_bytes_by_number_and_by_link(client: httpx2.Client, done: dict[str, Any]) -> None:
    for url in (f"/v1/jobs/{done['id']}/images/0", done["images"][0]["url"]):
        answer = client.get(url)
        assert (answer.status_code, answer.content) == (200, DATA)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == f'inline; filename="{done["id"]}-0.png"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        head = client.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(DATA)))
        assert head.headers["etag"] == answer.headers["etag"]


def test_ranges_and_conditions(client: httpx2.Client, done: dict[str, Any]) -> None:
    url = done["images"][0]["url"]
    etag = client.get(url).headers["etag"]
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, DATA[10:20], "bytes 10-19/1024")
    assert client.get(url, headers={"Range": "bytes=-4"}).content == DATA[-4:]
    assert client.get(url, headers={"Range": "bytes=10-19", "If-Range": etag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=10-19", "If-Range": '"old"'}).content == DATA
    outside = client.get(url, headers={"Range": "bytes=5000-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */1024")
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_links_need_no_key_and_expire(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    headers = {"Authorization": f"Bearer {'k' * 32}"}
    with gateway_with(api_keys=f"default:{'k' * 32}", picture_url_seconds=60) as running:
        running.client.post("/v1/jobs", json=PARAMETERS, headers=headers)
        worker.succeed(worker.claim(), data=DATA)
        [job] = running.client.get("/v1/jobs", headers=headers).json()["data"]
        url = job["images"][0]["url"]
        assert running.client.get(url).content == DATA
        assert running.client.get(f"/v1/jobs/{job['id']}/images/0").status_code == 401
        viewer = running.app.state.services.viewer
        real = viewer.now
        viewer.now = lambda: real() + 3_600
        late = running.client.get(url)
        assert (late.status_code, late.json()["type"]) == (403, "/problems/link-expired")


def expiry(url: str) -> int:
    return int(url.split("expires=")[1].split("&")[0])


def test_links_can_live_as_long_as_the_pictures(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    """From the first answer to the last one it is the same link, and it ends with its picture."""
    worker.announce()
    week = 7 * 24 * 3_600
    with gateway_with(picture_url_seconds=week) as running:
        job = running.client.post("/v1/jobs", json=PARAMETERS).json()
        worker.succeed(worker.claim(), data=DATA)
        viewer = running.app.state.services.viewer
        real = viewer.now

        def ask() -> str:
            return running.client.get(job["urls"]["self"]).json()["images"][0]["url"]

        record = running.client.get(job["urls"]["self"]).json()
        url = ask()
        ends = datetime.fromisoformat(record["expires_at"]).timestamp()
        assert expiry(url) == int(ends)
        for days in (0.1, 3, 6.9):
            viewer.now = lambda days=days: real() + days * 24 * 3_600
            assert ask() == url
            assert running.client.get(url).content == DATA
        viewer.now = lambda: ends + 1
        assert running.client.get(url).json()["type"] == "/problems/link-expired"


def test_a_short_link_of_a_picture_that_will_go_sooner_ends_with_it(
    gateway_with: OneGateway, worker: ScriptedWorker
) -> None:
    worker.announce()
    with gateway_with(retention_hours=0.5) as running:
        job = running.client.post("/v1/jobs", json=PARAMETERS).json()
        worker.succeed(worker.claim(), data=DATA)
        done = running.client.get(job["urls"]["self"]).json()
        ends = datetime.fromisoformat(done["expires_at"]).timestamp()
        assert expiry(done["images"][0]["url"]) == int(ends)


def test_links_that_lived_too_long_end_when_the_setting_is_lowered(
    gateway_with: OneGateway, worker: ScriptedWorker
) -> None:
    worker.announce()
    with gateway_with(picture_url_seconds=24 * 3_600) as long:
        job = long.client.post("/v1/jobs", json=PARAMETERS).json()
        worker.succeed(worker.claim(), data=DATA)
        url = long.client.get(job["urls"]["self"]).json()["images"][0]["url"]
        assert long.client.get(url).content == DATA
    with gateway_with() as short:
        path = "/" + url.split("/", 3)[3]
        assert short.client.get(path).json()["type"] == "/problems/link-invalid"


def test_a_changed_link_is_refused(client: httpx2.Client, done: dict[str, Any]) -> None:
    url = done["images"][0]["url"]
    path, query = url.split("?")
    for changed in (
        url[:-1] + "x",
        path,
        path.replace("0.png", "1.png") + "?" + query,
        url.replace("expires=", "expires=9"),
    ):
        answer = client.get(changed)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/link-invalid")


@pytest.mark.parametrize("index", ["1", "-1", "00", "x", "%2e%2e", "0%00", "9" * 500])
def test_no_such_picture(client: httpx2.Client, done: dict[str, Any], index: str) -> None:
    answer = client.get(f"/v1/jobs/{done['id']}/images/{index}")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/picture-not-found")


def test_a_symlink_in_the_store_is_no_picture(
    client: httpx2.Client, done: dict[str, Any], picture_folder: Path, tmp_path: Path
) -> None:
    [picture] = picture_folder.rglob("*.png")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    picture.unlink()
    picture.symlink_to(secret)
    for url in (f"/v1/jobs/{done['id']}/images/0", done["images"][0]["url"]):
        answer = client.get(url)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/picture-not-found")


def test_a_store_that_signs_is_redirected_to(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    bucket = {
        "storage_url": "s3://bucket/prefix",
        "storage_endpoint": "http://127.0.0.1:9",
        "storage_region": "us-east-1",
        "storage_access_key_id": "id",
        "storage_secret_access_key": "secret",
    }
    with gateway_with(**bucket) as running:
        job = send(running.client)
        worker.succeed(worker.claim())
        answer = running.client.get(f"/v1/jobs/{job['id']}/images/0")
        assert answer.status_code == 302
        assert answer.headers["location"].startswith("http://127.0.0.1:9/bucket/prefix/images/")
        assert "X-Amz-Signature=" in answer.headers["location"]
        policy = running.client.get("/").headers["content-security-policy"]
        assert "img-src 'self' http://127.0.0.1:9 data:;" in policy
