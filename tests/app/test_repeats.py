"""A request that is said again with its Idempotency-Key finds its job, whatever would be said of a new one by now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx2
import pytest
import redis

from app.contract.redis import keys as names
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import problem

KEY = {"Idempotency-Key": "the same"}


MISFORTUNES = (
    "memory_is_full",
    "the_disk_is_full",
    "the_model_is_gone",
    "another_model_is_served",
    "the_model_allows_less",
    "the_queue_is_full",
)

Misfortune = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def misfortunes(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> dict[str, Misfortune]:
    services = running.app.state.services

    def looks_again() -> None:
        services.registry._asked_at = services.admission._room._disk_asked_at = -math.inf

    @contextmanager
    def memory_is_full() -> Iterator[None]:
        redis_client.config_set("maxmemory", int(redis_client.info("memory")["used_memory"] * 1.1))
        looks_again()
        yield
        redis_client.config_set("maxmemory", 0)
        looks_again()

    @contextmanager
    def the_disk_is_full() -> Iterator[None]:
        reserve = services.admission._room._reserve_bytes
        services.admission._room._reserve_bytes = 2**62
        looks_again()
        yield
        services.admission._room._reserve_bytes = reserve

    @contextmanager
    def the_model_is_gone() -> Iterator[None]:
        redis_client.delete(names.CARDS)
        looks_again()
        yield

    @contextmanager
    def another_model_is_served() -> Iterator[None]:
        redis_client.delete(names.CARDS)
        worker.ownership.announce(worker.card.model_copy(update={"name": "other", "sha256": "1" * 64}), "w2")
        looks_again()
        yield

    @contextmanager
    def the_model_allows_less() -> Iterator[None]:
        worker.ownership.announce(worker.card.model_copy(update={"max_steps": 5}), "w1")
        looks_again()
        yield

    @contextmanager
    def the_queue_is_full() -> Iterator[None]:
        settings = services.admission._settings
        services.admission._settings = settings.model_copy(update={"queue_limit": 1})
        yield
        services.admission._settings = settings

    local = locals()
    return {name: local[name] for name in MISFORTUNES}


@pytest.mark.parametrize("misfortune", MISFORTUNES)
def test_a_known_key_gets_its_job(client: httpx2.Client, misfortunes: dict[str, Misfortune], misfortune: str) -> None:
    parameters = {**PARAMETERS, "model": "starter", "num_inference_steps": 20}
    first = client.post("/v1/jobs", json=parameters, headers=KEY)
    with misfortunes[misfortune]():
        again = client.post("/v1/jobs", json=parameters, headers=KEY)
        another_body = client.post("/v1/jobs", json={**parameters, "seed": 8}, headers=KEY)
        new = client.post("/v1/jobs", json=parameters, headers={"Idempotency-Key": "another"})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.json()["id"] == first.json()["id"]
    assert problem(another_body) == (422, "idempotency-key-reused")
    assert new.status_code in (422, 429, 503), "a new job is refused: the misfortune is one"


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/models/darkroom/starter/predictions"])
@pytest.mark.parametrize("misfortune", ["the_model_is_gone", "another_model_is_served"])
def test_a_known_key_gets_its_prediction(
    client: httpx2.Client, misfortunes: dict[str, Misfortune], misfortune: str, path: str
) -> None:
    parameters = {"input": {"prompt": "a red circle", "seed": 7}}
    if path == "/v1/predictions":
        parameters = {"version": "0" * 64} | parameters
    first = client.post(path, json=parameters, headers=KEY)
    with misfortunes[misfortune]():
        again = client.post(path, json=parameters, headers=KEY)
        new = client.post(path, json=parameters, headers={"Idempotency-Key": "another"})
        other = client.post(path, json=parameters | {"input": {"prompt": "a star"}}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    assert new.status_code in (404, 422)
    assert problem(other) == (422, "idempotency-key-reused")


def test_a_deleted_job_is_told_of(client: httpx2.Client, misfortunes: dict[str, Misfortune]) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS, headers=KEY).json()
    assert client.delete(job["urls"]["self"]).status_code == 204
    with misfortunes["memory_is_full"]():
        assert problem(client.post("/v1/jobs", json=PARAMETERS, headers=KEY)) == (410, "job-deleted")


def test_a_retry_that_happened_is_found(
    client: httpx2.Client, worker: ScriptedWorker, misfortunes: dict[str, Misfortune]
) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    worker.fail(worker.claim())
    again = client.post(f"{job['urls']['self']}/retry")
    with misfortunes["memory_is_full"]():
        found = client.post(f"{job['urls']['self']}/retry")
    assert (again.status_code, found.status_code) == (202, 202)
    assert found.json()["id"] == again.json()["id"]
