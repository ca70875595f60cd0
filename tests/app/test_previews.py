"""Previews as a watcher of the event stream sees them."""

from __future__ import annotations

import base64

import httpx2
import pytest

from tests.app.conftest import ScriptedWorker
from tests.app.test_events import stream
from tests.app.test_jobs import PARAMETERS, send

WATCHED = PARAMETERS | {"preview_every": 5}
JPEG = base64.b64encode(b"\xff\xd8\xff a small one").decode()


def test_a_watcher_sees_previews(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, WATCHED)
    assert job["input"]["preview_every"] == 5
    with stream(client, job["urls"]["events"]) as told:
        told.next()
        claim = worker.claim()
        assert told.next()[0] == "job.started"
        worker.ownership.preview(claim, 0, 5, 20, JPEG)
        name, _, data = told.next()
        worker.succeed(claim)
        assert [name for name, _, _ in told.rest()] == ["job.succeeded"]
    assert name == "job.preview"
    assert data == {"id": job["id"], "index": 0, "step": 5, "steps": 20, "jpeg": JPEG}


def test_two_watchers_see_the_same(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, WATCHED)
    with stream(client, job["urls"]["events"]) as one, stream(client, job["urls"]["events"]) as other:
        one.next(), other.next()
        claim = worker.claim()
        worker.ownership.preview(claim, 0, 5, 20, JPEG)
        for told in (one, other):
            assert [told.next()[0] for _ in range(2)] == ["job.started", "job.preview"]


def test_who_resumes_late_sees_only_the_newest(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, WATCHED)
    with stream(client, job["urls"]["events"]) as told:
        _, place, _ = told.next()
    claim = worker.claim()
    for step in (5, 10, 15):
        worker.ownership.preview(claim, 0, step, 20, JPEG)
    worker.progress(claim, 16)
    with stream(client, job["urls"]["events"], place) as told:
        story = [(name, data.get("step")) for name, _, data in (told.next() for _ in range(3))]
    assert story == [("job.started", None), ("job.preview", 15), ("job.progress", 16)]


@pytest.mark.parametrize(
    "parameters", [{"preview_every": -1}, {"preview_every": 1.5}, {"preview_every": 10_001}, {"reproducible": 1}]
)
def test_odd_requests_are_refused(client: httpx2.Client, parameters: dict[str, object]) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "a circle", **parameters})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(parameters))}"


def test_webhooks_get_no_previews(client: httpx2.Client) -> None:
    webhook = {"url": "https://example.org/hook", "events": ["job.preview"]}
    answer = client.post("/v1/jobs", json={"prompt": "a circle", "webhook": webhook})
    assert answer.status_code == 422
