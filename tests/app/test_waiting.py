"""Requests that wait: signs of life before the answer, and what becomes of the job when the caller leaves."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from app.contract.redis.ownership import Beat
from app.routes import waiting
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_guard import connect
from tests.app.test_jobs import PARAMETERS, send
from tests.waiting import WAIT_SECONDS, until

WAYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "native": ("/v1/jobs", PARAMETERS, "wait=60, "),
    "openai": ("/v1/images/generations", {"prompt": "a frog", "response_format": "url"}, ""),
    "openai stream": ("/v1/images/generations", {"prompt": "a frog", "stream": True}, ""),
    "replicate": ("/v1/predictions", {"version": "darkroom/starter", "input": {"prompt": "a frog"}}, "wait, "),
}
ANSWERS = [way for way in WAYS if way != "openai stream"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "HEARTBEAT_SECONDS", 0.02)


def jobs(client: httpx2.Client) -> list[dict[str, Any]]:
    return list(client.get("/v1/jobs").json()["data"])


@pytest.mark.parametrize("way", ANSWERS)
def test_a_heartbeat_comes_before_the_job_is_even_begun(
    client: httpx2.Client, worker: ScriptedWorker, way: str
) -> None:
    """Head and white space are read first, and only then does a worker take the job."""
    path, body, prefer = WAYS[way]
    with client.stream("POST", path, json=body, headers={"Prefer": f"{prefer}heartbeat"}) as answer:
        assert answer.status_code == {"native": 202, "openai": 200, "replicate": 201}[way]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "heartbeat" in answer.headers["preference-applied"]
        if way != "openai":
            assert answer.headers["location"]
        chunks = answer.iter_raw()
        assert {next(chunks).strip() for _ in range(3)} == {b""}
        worker.succeed(worker.claim())
        told = json.loads(b"".join(chunks))
    if way == "openai":
        assert told["data"][0]["url"]
    else:
        assert told["status"] == "succeeded"


def test_an_error_after_a_heartbeat_is_in_the_body(client: httpx2.Client, worker: ScriptedWorker) -> None:
    path, body, _ = WAYS["openai"]
    with client.stream("POST", path, json=body, headers={"Prefer": "heartbeat"}) as answer:
        worker.fail(worker.claim())
        told = json.loads(answer.read())
    assert (answer.status_code, told["error"]["code"]) == (200, "job-failed")


@pytest.mark.parametrize("way", ANSWERS)
def test_what_is_refused_before_has_its_own_status(client: httpx2.Client, way: str) -> None:
    path, body, prefer = WAYS[way]
    answer = client.post(path, json=body | {"zanzibar": 1}, headers={"Prefer": f"{prefer}heartbeat"})
    assert answer.status_code == (400 if way == "openai" else 422)


def test_a_heartbeat_ends_when_the_service_closes(closable: Running) -> None:
    headers = {"Prefer": "wait=60, heartbeat"}
    with closable.client.stream("POST", "/v1/jobs", json=PARAMETERS, headers=headers) as answer:
        closable.close_soon()
        assert json.loads(answer.read())["status"] == "queued"


@pytest.mark.parametrize(
    "prefer", ["wait=60", "wait=60, heartbeat-rate", "wait=60; heartbeat", 'wait=60, x="heartbeat"']
)
def test_without_it_nothing_is_sent_before_the_answer(
    client: httpx2.Client, worker: ScriptedWorker, prefer: str
) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(client.post, "/v1/jobs", json=PARAMETERS, headers={"Prefer": prefer})
        worker.succeed(worker.claim())
        answer = asked.result(WAIT_SECONDS)
    assert (answer.status_code, answer.content[:1]) == (200, b"{")
    assert answer.headers["preference-applied"] == "wait=60"


def leaves(client: httpx2.Client, way: str, prefer: str, *more: str) -> str:
    """Sends a request and goes away once its job is in. The job's id."""
    path, body, wait = WAYS[way]
    known = {job["id"] for job in jobs(client)}
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Prefer: {wait}{prefer}", "Content-Type: application/json"]
    with connect(client) as connection:
        connection.sendall("\r\n".join([*lines, *more, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        [job] = until(lambda: [job["id"] for job in jobs(client) if job["id"] not in known])
    return str(job)


def status(client: httpx2.Client, job: str) -> str:
    return str(client.get(f"/v1/jobs/{job}").json()["status"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("more", ["", ", heartbeat"])
def test_a_caller_who_leaves_takes_the_job_along(client: httpx2.Client, way: str, more: str) -> None:
    job = leaves(client, way, f"cancel-on-disconnect{more}")
    until(lambda: status(client, job) == "canceled")


def test_a_running_job_is_told_to_stop(client: httpx2.Client, worker: ScriptedWorker) -> None:
    path, body, wait = WAYS["native"]
    headers = {"Prefer": f"{wait}cancel-on-disconnect, heartbeat"}
    with client.stream("POST", path, json=body, headers=headers):
        claim = worker.claim()
    until(lambda: worker.ownership.beat([claim]) == [Beat.CANCEL])


@pytest.mark.parametrize("way", WAYS)
def test_without_being_asked_the_job_goes_on(running: Running, client: httpx2.Client, way: str) -> None:
    """Shown by one that leaves later and is called off: the server knew of the first departure before the second."""
    stays = leaves(client, way, "respond-async")
    until(lambda: running.app.state.services.feed.listeners == 0)
    # With a key: otherwise it would join the job that was left.
    goes = leaves(client, way, "cancel-on-disconnect", "Idempotency-Key: order-17")
    until(lambda: status(client, goes) == "canceled")
    assert status(client, stays) == "queued"


def test_who_only_joined_a_job_does_not_call_it_off(running: Running, client: httpx2.Client) -> None:
    key = {"Idempotency-Key": "order-17"}
    job = client.post("/v1/jobs", json=PARAMETERS, headers=key).json()["id"]
    lines = ["POST /v1/jobs HTTP/1.1", "Host: localhost", "Prefer: wait=60, cancel-on-disconnect"]
    lines += ["Idempotency-Key: order-17", "Content-Type: application/json"]
    content = json.dumps(PARAMETERS).encode()
    with connect(client) as connection:
        connection.sendall("\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        until(lambda: running.app.state.services.feed.listeners == 1)
    until(lambda: running.app.state.services.feed.listeners == 0)
    goes = leaves(client, "native", "cancel-on-disconnect")
    until(lambda: status(client, goes) == "canceled")
    assert status(client, job) == "queued"


def test_preferences_that_were_applied_are_named(client: httpx2.Client, worker: ScriptedWorker) -> None:
    send(client)
    with ThreadPoolExecutor() as pool:
        headers = {"Prefer": "Wait=60, Cancel-On-Disconnect, zanzibar"}
        asked = pool.submit(client.post, "/v1/jobs", json=PARAMETERS, headers=headers)
        for _ in range(2):
            worker.succeed(worker.claim())
        assert asked.result(WAIT_SECONDS).headers["preference-applied"] == "wait=60, cancel-on-disconnect"
