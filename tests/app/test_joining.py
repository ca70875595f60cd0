"""Equal requests: whose caller has left without an answer is joined, whose caller still waits is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis

from app.contract.redis import keys
from app.routes import joining
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, connect
from tests.app.test_jobs import PARAMETERS
from tests.app.test_openai import official
from tests.app.test_waiting import WAYS
from tests.waiting import WAIT_SECONDS, until

JOIN_WAYS = [way for way in WAYS if way != "openai stream"]


class Traffic:
    """Requests of one kind at a gateway, and what Redis knows of them."""

    def __init__(self, running: Running, redis_client: redis.Redis, way: str, **headers: str) -> None:
        self.running, self.redis = running, redis_client
        self.path, self.body, self.prefer = WAYS[way]
        self.headers = {"Prefer": self.prefer.strip(", "), **headers}

    def jobs(self) -> list[str]:
        return [str(key).removeprefix(keys.JOB) for key in self.redis.keys(f"{keys.JOB}*")]

    def begin(self, connection: Any, **headers: str) -> str:
        """Sends a request whose job is a new one. The job's id."""
        before = set(self.jobs())
        content = json.dumps(self.body).encode()
        given = {"Host": "localhost", "Content-Type": "application/json", **self.headers, **headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
        connection.sendall("\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        [job] = until(lambda: set(self.jobs()) - before)
        return job

    def leave(self, **headers: str) -> str:
        """A request whose caller leaves. The job's id, once the gateway knows of the departure."""
        with connect(self.running.client) as connection:
            job = self.begin(connection, **headers)
            until(lambda: self.running.app.state.services.feed.listeners > 0)
        until(lambda: self.running.app.state.services.feed.listeners == 0)
        return job

    def nobody_waits_for(self, job: str) -> None:
        until(lambda: [word for word in self._words(job) if word.startswith("0 ")])

    def _words(self, job: str) -> list[str]:
        found: Any = [self.redis.hget(key, job) for key in self.redis.keys(f"{keys.PENDING}*")]
        return [word for word in found if word]

    def ask(self, **headers: str) -> httpx2.Response:
        return self.running.client.post(self.path, json=self.body, headers=self.headers | headers)


@pytest.fixture(params=JOIN_WAYS)
def traffic(request: pytest.FixtureRequest, running: Running, worker: ScriptedWorker, redis_client: Any) -> Traffic:
    worker.announce()
    return Traffic(running, redis_client, request.param)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_who_asks_again_gets_the_job_of_who_left(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor
) -> None:
    job = traffic.leave()
    traffic.nobody_waits_for(job)
    asked = pool.submit(traffic.ask)
    worker.succeed(worker.claim())
    answer = asked.result(WAIT_SECONDS)
    assert answer.is_success
    assert job in answer.text
    assert traffic.jobs() == [job]
    assert not traffic.redis.keys(f"{keys.PENDING}*")


def test_a_picture_that_nobody_saw_is_not_drawn_twice(traffic: Traffic, worker: ScriptedWorker) -> None:
    job = traffic.leave()
    traffic.nobody_waits_for(job)
    worker.succeed(worker.claim())
    assert job in traffic.ask().text
    assert traffic.jobs() == [job]


def test_two_whose_callers_wait_stay_two(traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor) -> None:
    with connect(traffic.running.client) as connection:
        first = traffic.begin(connection)
        asked = pool.submit(traffic.ask)
        for _ in range(2):
            worker.succeed(worker.claim())
        assert first not in asked.result(WAIT_SECONDS).text
    assert len(traffic.jobs()) == 2


def test_one_that_was_answered_is_not_joined(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor
) -> None:
    for number in (1, 2):
        asked = pool.submit(traffic.ask)
        worker.succeed(worker.claim())
        assert asked.result(WAIT_SECONDS).is_success
        assert len(traffic.jobs()) == number


def test_a_gateway_that_died_waits_for_nothing(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor
) -> None:
    """Its word is believed for a while only. Here the while is over because the test says so."""
    with connect(traffic.running.client) as connection:
        job = traffic.begin(connection)
        [name] = until(lambda: traffic.redis.keys(f"{keys.PENDING}*"))
        traffic.redis.hset(name, job, "1 its-gateway")
        asked = pool.submit(traffic.ask)
        worker.succeed(worker.claim())
        assert job in asked.result(WAIT_SECONDS).text
    assert traffic.jobs() == [job]


def test_a_job_without_a_future_is_not_joined(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor
) -> None:
    for end in (lambda job: worker.fail(worker.claim()), traffic.redis.delete, _cancel(traffic)):
        job = traffic.leave()
        traffic.nobody_waits_for(job)
        end(f"{keys.JOB}{job}")
        asked = pool.submit(traffic.ask)
        worker.succeed(worker.claim())
        answer = asked.result(WAIT_SECONDS)
        assert answer.is_success
        assert job not in answer.text


def _cancel(traffic: Traffic) -> Callable[[str], object]:
    return lambda key: traffic.running.client.post(f"/v1/jobs/{key.removeprefix(keys.JOB)}/cancel").raise_for_status()


def test_long_after_its_end_another_picture_may_be_meant(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = traffic.leave()
    traffic.nobody_waits_for(job)
    worker.succeed(worker.claim())
    monkeypatch.setattr(joining, "LATE_SECONDS", -60.0)
    asked = pool.submit(traffic.ask)
    worker.succeed(worker.claim())
    assert job not in asked.result(WAIT_SECONDS).text


def test_a_job_that_its_caller_took_along_is_not_joined(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor
) -> None:
    job = traffic.leave(Prefer=f"{traffic.prefer}cancel-on-disconnect")
    until(lambda: traffic.running.client.get(f"/v1/jobs/{job}").json()["status"] == "canceled")
    asked = pool.submit(traffic.ask)
    worker.succeed(worker.claim())
    assert job not in asked.result(WAIT_SECONDS).text


def test_who_left_does_not_take_along_what_another_waits_for(
    running: Running, worker: ScriptedWorker, redis_client: Any, pool: ThreadPoolExecutor
) -> None:
    """The retry came while its first try still seemed alive."""
    worker.announce()
    traffic = Traffic(running, redis_client, "openai")
    with connect(running.client) as connection:
        job = traffic.begin(connection, Prefer="cancel-on-disconnect")
        until(lambda: running.app.state.services.feed.listeners == 1)
        asked = pool.submit(traffic.ask, **{"x-stainless-retry-count": "1"})
        until(lambda: running.app.state.services.feed.listeners == 2)
    until(lambda: running.app.state.services.feed.listeners == 1)
    worker.succeed(worker.claim())
    assert job in asked.result(WAIT_SECONDS).text
    assert traffic.jobs() == [job]


@pytest.mark.parametrize("left", ["order-17", ""])
def test_an_idempotency_key_is_an_identity_of_its_own(
    traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor, left: str
) -> None:
    job = traffic.leave(**{"Idempotency-Key": left})
    asked = pool.submit(traffic.ask, **{"Idempotency-Key": "order-18"})
    for _ in range(2):
        worker.succeed(worker.claim())
    assert job not in asked.result(WAIT_SECONDS).text


def test_another_request_is_another_job(traffic: Traffic, worker: ScriptedWorker, pool: ThreadPoolExecutor) -> None:
    job = traffic.leave()
    traffic.nobody_waits_for(job)
    (traffic.body.get("input") or traffic.body)["num_inference_steps"] = 7
    try:
        asked = pool.submit(traffic.ask)
        for _ in range(2):
            worker.succeed(worker.claim())
        assert job not in asked.result(WAIT_SECONDS).text
    finally:
        del (traffic.body.get("input") or traffic.body)["num_inference_steps"]


def test_without_a_wait_every_request_is_a_job(running: Running, worker: ScriptedWorker, redis_client: Any) -> None:
    worker.announce()
    job = Traffic(running, redis_client, "native").leave()
    Traffic(running, redis_client, "native").nobody_waits_for(job)
    assert running.client.post("/v1/jobs", json=PARAMETERS).json()["id"] != job


def test_a_stream_is_joined_and_joins(
    running: Running, worker: ScriptedWorker, redis_client: Any, pool: ThreadPoolExecutor
) -> None:
    worker.announce()
    traffic = Traffic(running, redis_client, "openai stream")
    job = traffic.leave()
    traffic.nobody_waits_for(job)
    asked = pool.submit(traffic.ask)
    worker.succeed(worker.claim())
    assert job in asked.result(WAIT_SECONDS).text
    assert traffic.jobs() == [job]


def test_another_key_joins_nothing(
    gateway_with: OneGateway, worker: ScriptedWorker, redis_client: Any, pool: ThreadPoolExecutor
) -> None:
    worker.announce()
    ours, theirs = f"a{KEY}", f"b{KEY}"
    with gateway_with(api_keys=f"ann:{ours},ann:{theirs}") as running:
        traffic = Traffic(running, redis_client, "openai", Authorization=f"Bearer {ours}")
        job = traffic.leave()
        traffic.nobody_waits_for(job)
        again = {"Authorization": f"Bearer {theirs}", "x-stainless-retry-count": "1"}
        asked = pool.submit(traffic.ask, **again)
        for _ in range(2):
            worker.succeed(worker.claim())
        assert job not in asked.result(WAIT_SECONDS).text


class _GivesUp(httpx2.HTTPTransport):
    """The first request reaches the service and makes its job; then its deadline is over."""

    def __init__(self, traffic: Traffic, *, stays: bool) -> None:
        super().__init__()
        self._traffic = traffic
        self._connection = connect(traffic.running.client)
        self._stays = stays
        self.job = ""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.job:
            return super().handle_request(request)
        self._traffic.body = json.loads(request.read())
        self.job = self._traffic.begin(self._connection)
        if not self._stays:
            self._connection.close()
            self._traffic.nobody_waits_for(self.job)
        raise httpx2.ReadTimeout("the deadline is over", request=request)

    def close(self) -> None:
        self._connection.close()
        super().close()


@pytest.mark.parametrize("stays", [False, True])
def test_openais_client_joins_the_job_it_lost(
    running: Running, worker: ScriptedWorker, redis_client: Any, pool: ThreadPoolExecutor, stays: bool
) -> None:
    """Also while its first try still seems alive, as behind a proxy that has not noticed."""
    worker.announce()
    transport = _GivesUp(Traffic(running, redis_client, "openai"), stays=stays)
    with httpx2.Client(transport=transport) as plain, official(running, max_retries=1, http_client=plain) as client:
        asked = pool.submit(client.images.generate, prompt="a red circle")
        until(lambda: transport.job and running.app.state.services.feed.listeners == 1 + stays)
        worker.succeed(worker.claim())
        answer: Any = asked.result(WAIT_SECONDS)
    assert answer.job_id == transport.job
    assert len(redis_client.keys(f"{keys.JOB}*")) == 1


def test_closing_leaves_the_job_to_who_asks_again(
    closable: Running, gateway_with: OneGateway, worker: ScriptedWorker, redis_client: Any, pool: ThreadPoolExecutor
) -> None:
    traffic = Traffic(closable, redis_client, "openai")
    asked = pool.submit(traffic.ask)
    until(lambda: closable.app.state.services.feed.listeners)
    closable.close_soon()
    assert asked.result(WAIT_SECONDS).status_code == 503
    [job] = traffic.jobs()
    with gateway_with() as other:
        again = pool.submit(Traffic(other, redis_client, "openai").ask)
        worker.succeed(worker.claim())
        assert job in again.result(WAIT_SECONDS).text
