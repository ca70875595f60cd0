"""The event stream: the present first, then everything once, across gateways and broken connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from app.routes import events
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_jobs import send
from tests.patience import PATIENCE, until

Told = tuple[str, str, dict[str, Any]]


class Stream:
    """A reader of one event stream, as far as it has come."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.retry: int | None = None
        self._told = self._read()

    def _read(self) -> Iterator[Told]:
        fields: dict[str, str] = {}
        for line in self.response.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif "retry" in fields:
                self.retry = int(fields.pop("retry"))
            elif "event" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
                fields = {}

    def next(self) -> Told:
        return next(self._told)

    def rest(self) -> list[Told]:
        return list(self._told)


@contextmanager
def stream(client: httpx2.Client, job: dict[str, Any], last_event_id: str | None = None) -> Iterator[Stream]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
    with client.stream("GET", f"/v1/jobs/{job['id']}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


def test_the_whole_story(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    with stream(client, job) as told:
        name, _, data = told.next()
        assert (name, data["status"], data["id"]) == ("job", "queued", job["id"])
        claim = worker.claim()
        worker.progress(claim, 5)
        worker.succeed(claim)
        rest = told.rest()
    assert [name for name, _, _ in rest] == ["job.started", "job.progress", "job.succeeded"]
    assert rest[1][2] == {"id": job["id"], "step": 5, "steps": 20}
    assert rest[2][2] == client.get(job["urls"]["self"]).json()


def test_a_story_that_is_over_is_told_in_one_event(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    worker.succeed(worker.claim())
    with stream(client, job) as told:
        [(name, last, data)] = told.rest()
    assert (name, data["status"], len(data["images"])) == ("job", "succeeded", 1)
    again = client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last})
    assert again.status_code == 204


def test_resuming_at_another_gateway_without_gap_or_repeat(
    client: httpx2.Client, worker: ScriptedWorker, gateway_with: OneGateway
) -> None:
    job = send(client)
    claim = worker.claim()
    with stream(client, job) as told:
        told.next()
        worker.progress(claim, 1)
        _, last, data = told.next()
        assert data["step"] == 1
    for step in (2, 3):
        worker.progress(claim, step)
    with gateway_with() as other, stream(other.client, job, last) as told:
        assert [told.next()[2]["step"] for _ in range(2)] == [2, 3]
        worker.succeed(claim)
        assert [name for name, _, _ in told.rest()] == ["job.succeeded"]


@pytest.mark.parametrize("garbage", ["", "x", "1", "1-", "-1-0", "9" * 400, "999999999999999-0", "0-1 x", "$"])
def test_a_place_in_no_story_starts_from_the_beginning(client: httpx2.Client, garbage: str) -> None:
    job = send(client)
    with stream(client, job, garbage) as told:
        assert told.next()[0] == "job"


def test_a_stream_has_a_longest_life(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(stream_seconds=0.2) as running:
        job = send(running.client)
        with stream(running.client, job) as told:
            assert [name for name, _, _ in told.rest()] == ["job"]
        assert told.retry == 1_000


def test_closing_ends_streams_with_a_retry(closable: Running) -> None:
    job = send(closable.client)
    with stream(closable.client, job) as told:
        told.next()
        closable.close_soon()
        assert told.rest() == []
    assert told.retry == 1_000


def test_a_departed_listener_frees_what_it_held(running: Running, client: httpx2.Client) -> None:
    job = send(client)
    feed = running.app.state.gateway.feed
    with stream(client, job) as told:
        told.next()
        until(lambda: feed.listeners)
    until(lambda: feed.listeners == 0)


def test_a_job_deleted_under_a_stream(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted before the reader looks, a job has no more news: the next heartbeat notices that it is gone."""
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.5)
    job = send(client)
    with ThreadPoolExecutor() as pool, stream(client, job) as told:
        told.next()
        deletion = pool.submit(client.delete, job["urls"]["self"])
        assert [name for name, _, _ in told.rest()] in ([], ["job.canceled"])
        assert deletion.result(PATIENCE).status_code == 204


def test_an_unknown_job_is_404_before_the_stream_begins(client: httpx2.Client) -> None:
    answer = client.get("/v1/jobs/job_000000000000000000000000/events")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-not-found")
