"""The event stream: the present first, then everything once, across gateways and broken connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from app.jobs import follow
from app.routes.events import MOST_JOBS
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_jobs import send
from tests.waiting import WAIT_SECONDS, until

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


Job = dict[str, Any]
PathOf = Callable[[Job], str]


@pytest.fixture(params=["the stream of one job", "the stream of several"])
def path_of(request: pytest.FixtureRequest) -> PathOf:
    """Where one job's events are: what holds for the stream of one holds for the stream of several."""
    if request.param == "the stream of one job":
        return lambda job: f"/v1/jobs/{job['id']}/events"
    return lambda job: all_of(job)


def all_of(*jobs: Job) -> str:
    return f"/v1/jobs/events?{'&'.join('id=' + job['id'] for job in jobs)}"


@contextmanager
def stream(client: httpx2.Client, path: str, last_event_id: str | None = None) -> Iterator[Stream]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


def test_the_whole_story(client: httpx2.Client, worker: ScriptedWorker, path_of: PathOf) -> None:
    job = send(client)
    with stream(client, path_of(job)) as told:
        name, _, data = told.next()
        assert (name, data["status"], data["id"]) == ("job", "queued", job["id"])
        claim = worker.claim()
        worker.progress(claim, 5)
        worker.succeed(claim)
        rest = told.rest()
    assert [name for name, _, _ in rest] == ["job.started", "job.progress", "job.succeeded"]
    assert rest[1][2] == {"id": job["id"], "step": 5, "steps": 20}
    assert rest[2][2] == client.get(job["urls"]["self"]).json()


def test_a_story_that_is_over_is_told_in_one_event(
    client: httpx2.Client, worker: ScriptedWorker, path_of: PathOf
) -> None:
    job = send(client)
    worker.succeed(worker.claim())
    with stream(client, path_of(job)) as told:
        [(name, last, data)] = told.rest()
    assert (name, data["status"], len(data["images"])) == ("job", "succeeded", 1)
    again = client.get(path_of(job), headers={"Last-Event-ID": last})
    assert again.status_code == 204


def test_resuming_at_another_gateway_without_gap_or_repeat(
    client: httpx2.Client, worker: ScriptedWorker, gateway_with: OneGateway, path_of: PathOf
) -> None:
    job = send(client)
    claim = worker.claim()
    with stream(client, path_of(job)) as told:
        told.next()
        worker.progress(claim, 1)
        _, last, data = told.next()
        assert data["step"] == 1
    for step in (2, 3):
        worker.progress(claim, step)
    with gateway_with() as other, stream(other.client, path_of(job), last) as told:
        assert [told.next()[2]["step"] for _ in range(2)] == [2, 3]
        worker.succeed(claim)
        assert [name for name, _, _ in told.rest()] == ["job.succeeded"]


@pytest.mark.parametrize("garbage", ["", "x", "1", "1-", "-1-0", "9" * 400, "999999999999999-0", "0-1 x", "$"])
def test_a_place_in_no_story_starts_from_the_beginning(client: httpx2.Client, garbage: str, path_of: PathOf) -> None:
    job = send(client)
    with stream(client, path_of(job), garbage) as told:
        assert told.next()[0] == "job"


def test_a_stream_has_a_longest_life(gateway_with: OneGateway, worker: ScriptedWorker, path_of: PathOf) -> None:
    worker.announce()
    with gateway_with(stream_seconds=0.2) as running:
        job = send(running.client)
        with stream(running.client, path_of(job)) as told:
            assert [name for name, _, _ in told.rest()] == ["job"]
        assert told.retry == 1_000


def test_closing_ends_streams_with_a_retry(closable: Running, path_of: PathOf) -> None:
    job = send(closable.client)
    with stream(closable.client, path_of(job)) as told:
        told.next()
        closable.close_soon()
        assert told.rest() == []
    assert told.retry == 1_000


def test_a_departed_listener_frees_what_it_held(running: Running, client: httpx2.Client, path_of: PathOf) -> None:
    job = send(client)
    feed = running.app.state.services.feed
    with stream(client, path_of(job)) as told:
        told.next()
        until(lambda: feed.listeners)
    until(lambda: feed.listeners == 0)


def test_a_job_deleted_under_a_stream(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, path_of: PathOf) -> None:
    """Deleted before the reader looks, a job has no more news: the next heartbeat notices that it is gone."""
    monkeypatch.setattr(follow, "HEARTBEAT_SECONDS", 0.5)
    job = send(client)
    with ThreadPoolExecutor() as pool, stream(client, path_of(job)) as told:
        told.next()
        deletion = pool.submit(client.delete, job["urls"]["self"])
        assert [name for name, _, _ in told.rest()] in ([], ["job.canceled"])
        assert deletion.result(WAIT_SECONDS).status_code == 204


def test_an_unknown_job_is_404_before_the_stream_begins(client: httpx2.Client) -> None:
    answer = client.get("/v1/jobs/job_000000000000000000000000/events")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-not-found")


def named(events: list[Told]) -> list[tuple[str, str]]:
    return [(data["id"], name) for name, _, data in events]


def test_several_jobs_in_one_stream(client: httpx2.Client, worker: ScriptedWorker) -> None:
    one, two, over = (send(client) for _ in range(3))
    client.post(over["urls"]["cancel"])
    with stream(client, all_of(one, two, over)) as heard:
        present = [heard.next() for _ in range(3)]
        assert {data["id"]: data["status"] for _, _, data in present} == {
            one["id"]: "queued",
            two["id"]: "queued",
            over["id"]: "canceled",
        }
        first, second = worker.claim(), worker.claim()
        worker.progress(second, 3)
        assert worker.ownership.preview(second, 0, 3, 20, "anBlZw==")
        worker.succeed(second)
        worker.fail(first)
        rest = heard.rest()
    assert [name for job_id, name in named(rest) if job_id == first.id] == ["job.started", "job.failed"]
    assert [name for job_id, name in named(rest) if job_id == second.id] == [
        "job.started",
        "job.progress",
        "job.preview",
        "job.succeeded",
    ]
    assert next(data["jpeg"] for name, _, data in rest if name == "job.preview") == "anBlZw=="
    assert rest[-1][2] == client.get(rest[-1][2]["urls"]["self"]).json()
    again = client.get(all_of(two, over, one), headers={"Last-Event-ID": rest[-1][1]})
    assert again.status_code == 204


@pytest.mark.parametrize("heard", range(5))
def test_several_jobs_resume_from_every_event(
    client: httpx2.Client, worker: ScriptedWorker, gateway_with: OneGateway, heard: int
) -> None:
    """Broken anywhere, also while the present is told: nothing is missing, and nothing is there twice."""
    one, two = send(client), send(client)
    first = worker.claim()
    with stream(client, all_of(one, two)) as before:
        seen = [before.next() for _ in range(min(heard, 2))]
        worker.progress(first, 1)
        second = worker.claim()
        seen += [before.next() for _ in range(heard - 2)]
    worker.succeed(second)
    worker.succeed(first)
    with gateway_with() as other, stream(other.client, all_of(two, one, two), seen[-1][1] if seen else None) as after:
        seen += after.rest()
    states = [data["id"] for name, _, data in seen if name == "job"]
    assert sorted(states) == sorted([one["id"], two["id"]])
    events = [event for event in named(seen) if event[1] != "job"]
    assert len(set(events)) == len(events)
    ends = {data["id"] for _, _, data in seen if data.get("object") == "job" and data["status"] == "succeeded"}
    assert ends == {one["id"], two["id"]}
    if heard >= 2:
        assert sorted(events) == sorted(
            [
                (first.id, "job.progress"),
                (second.id, "job.started"),
                (first.id, "job.succeeded"),
                (second.id, "job.succeeded"),
            ]
        )


def test_a_place_among_other_jobs_begins_with_the_present(client: httpx2.Client, worker: ScriptedWorker) -> None:
    one, two = send(client), send(client)
    with stream(client, all_of(one)) as before:
        _, place, _ = before.next()
    with stream(client, all_of(one, two), place) as after:
        assert sorted(named([after.next(), after.next()])) == sorted([(one["id"], "job"), (two["id"], "job")])


def test_a_job_deleted_under_a_stream_of_several(
    client: httpx2.Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and the stream ends with the last that is there."""
    monkeypatch.setattr(follow, "HEARTBEAT_SECONDS", 0.1)
    gone, kept = send(client), send(client)
    with stream(client, all_of(gone, kept)) as heard:
        assert len([heard.next(), heard.next()]) == 2
        assert client.delete(gone["urls"]["self"]).status_code == 204
        worker.succeed(worker.claim())
        rest = named(heard.rest())
    assert [name for job_id, name in rest if job_id == kept["id"]] == ["job.started", "job.succeeded"]
    assert {name for job_id, name in rest if job_id == gone["id"]} <= {"job.canceled"}


@pytest.mark.parametrize("other", ["job_000000000000000000000000", "job_*", "", "..", "x" * 5_000])
def test_one_unknown_job_among_several_is_404(client: httpx2.Client, other: str) -> None:
    job = send(client)
    answer = client.get("/v1/jobs/events", params={"id": [job["id"], other]})
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-not-found")
    alone = client.get("/v1/jobs/job_000000000000000000000000/events").json()
    assert answer.json() | {"instance": ""} == alone | {"instance": ""}


@pytest.mark.parametrize("count", [0, MOST_JOBS + 1])
def test_how_many_jobs_one_stream_may_have(client: httpx2.Client, count: int) -> None:
    answer = client.get("/v1/jobs/events", params={"id": ["job_000000000000000000000000"] * count})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "id")


def test_as_many_jobs_as_may_be_in_one_stream(client: httpx2.Client, worker: ScriptedWorker) -> None:
    jobs = [send(client) for _ in range(MOST_JOBS)]
    with stream(client, all_of(*jobs)) as heard:
        present = [heard.next() for _ in jobs]
        claim = worker.claim()
        name, place, data = heard.next()
        assert (name, data["id"]) == ("job.started", claim.id)
    assert {data["id"] for _, _, data in present} == {job["id"] for job in jobs}
    assert len(place) < 1_000, "it comes back in a header"
