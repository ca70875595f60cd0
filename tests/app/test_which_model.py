"""Which model a request means, under which names, and what is said while nobody serves it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import redis
from replicate.exceptions import ReplicateError

from app.contract.common.environment import SettingsError
from app.contract.messages.card import ModelCard
from app.contract.messages.served import ServedModel
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from app.jobs import follow
from app.jobs.model_choice import AWAY_RETRY_SECONDS, RESTART_SECONDS, by_default
from app.settings import Settings, settings_from_env
from tests.app import test_openai, test_replicate
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_refusals import problem
from tests.pictures import file_of, noise
from tests.waiting import until

LONG_AGO = 1_767_225_600_000
"""2026-01-01T00:00:00Z in ms."""

PARAMETERS = {"prompt": "a red circle", "seed": 7}


@pytest.fixture
def served(card: ModelCard) -> Callable[..., ServedModel]:
    def make(name: str, *, workers: int = 1, away: float = 0.0, seen_ms: int = 0) -> ServedModel:
        named = card.model_copy(update={"name": name})
        beats = {"workers": workers, "in_memory": workers, "seen_ms": seen_ms, "away_seconds": away}
        return ServedModel(card=named, **beats, pace_ms=None, seat_ms=None, ready_ms=None)

    return make


RESTARTS, GONE = {"workers": 0, "away": RESTART_SECONDS}, {"workers": 0, "away": RESTART_SECONDS + 1}


@pytest.mark.parametrize(
    ("models", "default", "meant"),
    [
        ({"a": {}}, None, "a"),
        ({"a": {}, "b": GONE}, None, "a"),
        ({"a": {}, "b": RESTARTS}, None, "a"),
        ({"a": {}, "b": {}}, "b", "b"),
        ({"a": {}, "b": {}}, None, None),
        ({"a": {}, "b": GONE}, "b", "a"),
        ({"a": {}, "b": RESTARTS}, "b", "b"),
        ({"a": {}, "b": {}, "c": GONE}, "c", "c"),
        ({"a": GONE, "b": GONE}, "a", "a"),
        ({"a": GONE | {"seen_ms": 2}, "b": GONE | {"seen_ms": 1}}, None, "a"),
        ({"a": GONE | {"seen_ms": 1}, "b": RESTARTS | {"seen_ms": 2}}, None, "b"),
        ({"a": GONE}, "never announced", None),
        ({"a": {}}, "never announced", "a"),
        ({"a": {}, "b": {}}, "never announced", None),
        ({}, None, None),
        ({}, "a", None),
    ],
)
def test_the_model_of_requests_that_name_none(
    served: Callable[..., ServedModel], models: dict[str, Any], default: str | None, meant: str | None
) -> None:
    found = by_default({name: served(name, **facts) for name, facts in models.items()}, default)
    assert (found.card.name if found else None) == meant


class Workers:
    """Workers of several models, of which some leave or fall silent."""

    def __init__(self, redis_client: redis.Redis, card: ModelCard, settings: Settings) -> None:
        self._redis = redis_client
        self._of = {
            name: ScriptedWorker(redis_client, card.model_copy(update={"name": name}), settings) for name in ("a", "b")
        }

    def come(self, *names: str) -> None:
        for name in names:
            self._of[name].announce()

    def leave(self, *names: str, at_ms: int | None = None) -> None:
        for name in names:
            self._of[name].ownership.leave(name, "w1")
            if at_ms is not None:
                self._redis.zadd(keys.SEEN, {name: at_ms})

    def draw(self, name: str) -> None:
        worker = self._of[name]
        worker.succeed(worker.claim())


@pytest.fixture
def workers(redis_client: redis.Redis, card: ModelCard, settings: Settings) -> Workers:
    return Workers(redis_client, card, settings)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever workers say is heard with the next request."""
    monkeypatch.setattr("app.jobs.model_registry.FRESH_SECONDS", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves may take all the time of the test to come back."""
    monkeypatch.setattr("app.jobs.model_choice.RESTART_SECONDS", 3_600.0)


@pytest.fixture
def http(running: Running, at_once: None) -> httpx2.Client:
    return running.client


def send(http: httpx2.Client, **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=PARAMETERS | more)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_another_model_in_the_same_redis_and_back(http: httpx2.Client, workers: Workers) -> None:
    """README's chapters: after the second start, no request without a model was taken any more."""
    workers.come("a")
    assert send(http)["model"] == "a"
    workers.leave("a")
    workers.come("b")
    assert send(http)["model"] == "b"
    workers.leave("b")
    assert send(http)["model"] == "b", "nobody is there: the last that was"
    workers.come("a")
    assert send(http)["model"] == "a"


def test_two_models_and_no_default_have_to_be_named(http: httpx2.Client, workers: Workers) -> None:
    workers.come("a", "b")
    answer = http.post("/v1/jobs", json=PARAMETERS)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "model_missing")
    assert "a, b" in answer.json()["errors"][0]["detail"]
    assert send(http, model="b")["model"] == "b"


def test_the_default_waits_for_its_worker_to_restart(
    gateway_with: OneGateway, workers: Workers, at_once: None, patient: None
) -> None:
    workers.come("a", "b")
    with gateway_with(default_model="b") as running:
        assert send(running.client)["model"] == "b"
        workers.leave("b")
        assert send(running.client)["model"] == "b"
        workers.leave("b", at_ms=LONG_AGO)
        assert send(running.client)["model"] == "a"


def test_a_default_that_is_still_loading(gateway_with: OneGateway, workers: Workers, at_once: None) -> None:
    workers.come("a")
    workers.leave("a")
    with gateway_with(default_model="b") as running:
        answer = running.client.post("/v1/jobs", json=PARAMETERS)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-model-yet")
        assert answer.headers["retry-after"] == "5"
        workers.come("b")
        assert send(running.client)["model"] == "b"


def test_the_list_says_which_model_is_meant(gateway_with: OneGateway, workers: Workers, at_once: None) -> None:
    workers.come("a", "b")
    workers.leave("a", at_ms=LONG_AGO)
    with gateway_with(model_aliases={"gpt-image-1": "b", "lost": "nowhere"}) as running:
        listed = {model["id"]: model for model in running.client.get("/v1/models").json()["data"]}
    assert list(listed) == ["a", "b", "gpt-image-1"], "an alias that leads nowhere is not offered"
    assert (listed["a"]["state"], listed["a"]["workers"], listed["a"]["default"]) == ("away", 0, False)
    assert listed["a"]["seen_at"] == "2026-01-01T00:00:00.000Z"
    assert (listed["b"]["state"], listed["b"]["default"], listed["b"]["alias_of"]) == ("ready", True, None)
    alias = listed["gpt-image-1"]
    assert (alias["alias_of"], alias["name"], alias["state"], alias["default"]) == ("b", "b", "ready", False)


def test_aliases_are_names_everywhere(gateway_with: OneGateway, workers: Workers, at_once: None) -> None:
    workers.come("a", "b")
    aliases = {"gpt-image-1": "b", "stability-ai/sdxl": "b", "nothing": "nowhere"}
    with ThreadPoolExecutor() as pool, gateway_with(model_aliases=aliases, default_model="gpt-image-1") as running:
        job = send(running.client, model="gpt-image-1")
        assert (job["model"], job["input"]["model"]) == ("b", "b"), "answers name the real one"
        assert send(running.client)["model"] == "b", "the default may be an alias"
        with test_replicate.official(running) as client:
            assert client.predictions.create("gpt-image-1", input=PARAMETERS).model == "darkroom/b"
            assert client.models.predictions.create("stability-ai/sdxl", input=PARAMETERS).model == "darkroom/b"
            found = client.models.get("stability-ai/sdxl")
            assert (found.owner, found.name) == ("darkroom", "b")
        for _ in range(4):
            workers.draw("b")
        with test_openai.official(running) as client:
            assert [model.id for model in client.models.list()] == ["a", "b", "gpt-image-1", "stability-ai/sdxl"]
            drawn = pool.submit(lambda: client.images.generate(model="gpt-image-1", prompt="a red circle"))
            workers.draw("b")
            assert drawn.result().data
            with pytest.raises(openai.NotFoundError) as caught:
                client.images.generate(model="nothing", prompt="a red circle")
            assert "is another name of nowhere, which is not served here; the models are: a, b" in str(caught.value)


def test_an_alias_hides_a_model_of_its_name(gateway_with: OneGateway, workers: Workers, at_once: None) -> None:
    workers.come("a", "b")
    with gateway_with(model_aliases={"a": "b"}) as running:
        assert send(running.client, model="a")["model"] == "b"
        listed = [(model["id"], model["name"]) for model in running.client.get("/v1/models").json()["data"]]
        assert listed == [("b", "b"), ("a", "b")]


def given(redis_client: redis.Redis, **aliases: str) -> None:
    """By the operator, while the service runs."""
    redis_client.hset(keys.MODEL_ALIASES, mapping={name.replace("_", "-"): model for name, model in aliases.items()})


def test_names_that_were_given_meanwhile_are_names_everywhere(
    running: Running, http: httpx2.Client, workers: Workers, redis_client: redis.Redis
) -> None:
    workers.come("a", "b")
    given(redis_client, dall_e_3="b", nothing="nowhere")
    job = send(http, model="dall-e-3")
    assert (job["model"], job["requested_model"], job["input"]["model"]) == ("b", "dall-e-3", "b")
    assert http.get(job["urls"]["self"]).json()["requested_model"] == "dall-e-3", "it is kept"
    assert send(http, model="b")["requested_model"] is None
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert list(listed) == ["a", "b", "dall-e-3"], "a name that leads nowhere is not offered"
    assert (listed["dall-e-3"]["alias_of"], listed["b"]["waiting"], listed["a"]["waiting"]) == ("b", 2, 0)
    assert http.get("/v1/models/dall-e-3").json()["name"] == "b"
    with test_openai.official(running) as client:
        assert [model.id for model in client.models.list()] == ["a", "b", "dall-e-3"]
    with test_replicate.official(running) as replicate:
        assert replicate.predictions.create("dall-e-3", input=PARAMETERS).model == "darkroom/b"
    checkpoints = [each["model_name"] for each in http.get("/sdapi/v1/sd-models").json()]
    assert checkpoints == ["a", "b", "dall-e-3"]
    refused = http.post("/v1/jobs", json=PARAMETERS | {"model": "nothing"})
    assert "is another name of nowhere, which is not served here" in refused.json()["errors"][0]["detail"]
    redis_client.hdel(keys.MODEL_ALIASES, "dall-e-3")
    assert http.post("/v1/jobs", json=PARAMETERS | {"model": "dall-e-3"}).status_code == 422


def test_of_two_with_a_name_the_settings_go_first_then_models_then_names_given_meanwhile(
    gateway_with: OneGateway, workers: Workers, at_once: None, redis_client: redis.Redis
) -> None:
    workers.come("a", "b")
    given(redis_client, a="b", gpt="b", mine="b")
    with gateway_with(model_aliases={"gpt": "a"}, default_model="mine") as running:
        assert send(running.client, model="a")["model"] == "a", "it came later, and is not hidden"
        assert send(running.client, model="gpt")["model"] == "a"
        assert send(running.client)["model"] == "b", "the default may be such a name"
        listed = [(model["id"], model["name"]) for model in running.client.get("/v1/models").json()["data"]]
    assert listed == [("a", "a"), ("b", "b"), ("gpt", "a"), ("mine", "b")]


def test_a_refusal_says_which_model_takes_it(
    http: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, card: ModelCard
) -> None:
    """With several models it is the wrong one more often than the wrong wish."""
    worker.announce()
    painter = {"name": "painter", "takes": ("strength", "image"), "tasks": ("image-to-image",)}
    Ownership(redis_client).announce(card.model_copy(update=painter), "w2")
    given(redis_client, dall_e_3="painter")
    body = PARAMETERS | {"model": "starter", "image": {"b64": "AAAA"}}
    [error] = http.post("/v1/jobs", json=body).json()["errors"]
    assert (error["pointer"], error["detail"]) == (
        "/image",
        "is something that starter does not take; taken by painter",
    )
    [error] = http.post("/v1/jobs", json=PARAMETERS | {"model": "pianter"}).json()["errors"]
    assert error["detail"] == "is not served here; the models are: painter, starter, dall-e-3"
    [error] = http.post("/v1/predictions", json={"version": "pianter", "input": PARAMETERS}).json()["errors"]
    assert error["detail"].endswith("; the models are: painter, starter, dall-e-3")


def test_a_retry_still_says_what_was_asked(
    http: httpx2.Client, workers: Workers, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    worker.announce()
    given(redis_client, dall_e_3="starter")
    job = send(http, model="dall-e-3")
    worker.fail(worker.claim())
    again = http.post(f"{job['urls']['self']}/retry").json()
    assert (again["model"], again["requested_model"]) == ("starter", "dall-e-3")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("gpt-image-1", "write alias=model"),
        ("=starter", "write alias=model"),
        ("gpt-image-1=", "write alias=model"),
        ("gpt-image-1=My Model", "a model's name is 1 to 64"),
        ("a b=starter", "write alias=model"),
        ("x=a,x=b", "x is given twice"),
        ("x=y,y=starter", "x leads to y, which is an alias itself"),
        ("x=x", "x leads to x, which is an alias itself"),
    ],
)
def test_aliases_that_could_never_work_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, written: str, words: str
) -> None:
    monkeypatch.setenv("DARKROOM_MODEL_ALIASES", written)
    with pytest.raises(SettingsError, match=f"^DARKROOM_MODEL_ALIASES: .*{words}"):
        settings_from_env()


def test_aliases_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_MODEL_ALIASES", " gpt-image-1 = starter, stability-ai/sdxl:1=starter,")
    assert settings_from_env().model_aliases == {"gpt-image-1": "starter", "stability-ai/sdxl:1": "starter"}
    monkeypatch.setenv("DARKROOM_MODEL_ALIASES", "")
    assert settings_from_env().model_aliases == {}


def test_a_job_without_a_worker_is_taken_with_a_warning(http: httpx2.Client, workers: Workers) -> None:
    workers.come("a")
    workers.leave("a", at_ms=LONG_AGO)
    job = send(http)
    assert job["queue"] == {"position": 0, "workers": 0, "eta_seconds": None}
    [warning] = job["warnings"]
    assert warning == "No worker serves a since 2026-01-01T00:00:00.000Z; the job waits until one does."
    asked = http.get(job["urls"]["self"])
    assert asked.json()["warnings"] == [warning]
    workers.come("a")
    again = http.get(job["urls"]["self"], headers={"If-None-Match": asked.headers["etag"]})
    assert (again.status_code, again.json()["warnings"], again.json()["queue"]["workers"]) == (200, [], 1)
    workers.draw("a")
    assert http.get(job["urls"]["self"]).json()["warnings"] == ["cut"], "the worker's own"


def test_the_dialects_refuse_a_model_that_is_away(
    running: Running, workers: Workers, at_once: None, redis_client: redis.Redis
) -> None:
    workers.come("a")
    workers.leave("a", at_ms=LONG_AGO)
    with test_openai.official(running) as client, pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="a red circle")
    assert (caught.value.status_code, caught.value.code) == (503, "model-away")
    assert caught.value.response.headers["retry-after"] == str(AWAY_RETRY_SECONDS)
    assert "No worker serves a since 2026-01-01" in str(caught.value)
    with test_replicate.official(running) as replicate, pytest.raises(ReplicateError) as refused:
        replicate.predictions.create("darkroom/a", input=PARAMETERS)
    assert (refused.value.status, refused.value.type) == (503, "/problems/model-away")
    assert redis_client.zcard(keys.QUEUED + "a") == 0, "nothing is left behind"


def test_the_dialects_wait_while_a_worker_restarts(
    running: Running, workers: Workers, at_once: None, patient: None
) -> None:
    workers.come("a")
    workers.leave("a")
    with ThreadPoolExecutor() as pool, test_openai.official(running) as client:
        drawn = pool.submit(lambda: client.images.generate(prompt="a red circle"))
        until(lambda: running.client.get("/v1/jobs").json()["data"])
        workers.come("a")
        workers.draw("a")
        assert drawn.result().data
    with test_replicate.official(running) as replicate:
        assert replicate.predictions.create("darkroom/a", input=PARAMETERS).status == "starting"


@pytest.fixture
def short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT_SECONDS", 0.05)


@pytest.mark.parametrize("stream", [False, True])
def test_a_wait_ends_when_the_worker_does_not_come_back(
    running: Running, workers: Workers, at_once: None, short_silences: None, stream: bool
) -> None:
    """Not a byte came for ten minutes."""
    workers.come("a")
    with ThreadPoolExecutor() as pool:
        body = {"prompt": "a red circle", "stream": stream}
        waiting = pool.submit(lambda: running.client.post("/v1/images/generations", json=body))
        until(lambda: running.client.get("/v1/jobs").json()["data"])
        workers.leave("a", at_ms=LONG_AGO)
        answer = waiting.result()
    assert "model-away" in answer.text
    assert answer.status_code == (200 if stream else 503)
    [job] = running.client.get("/v1/jobs").json()["data"]
    assert job["status"] == "queued", "it was taken, and waits"


def test_a_prediction_that_names_no_version(http: httpx2.Client, workers: Workers) -> None:
    workers.come("a")
    answer = http.post("/v1/predictions", json={"input": PARAMETERS})
    assert (answer.status_code, answer.json()["model"]) == (201, "darkroom/a")
    workers.come("b")
    refused = http.post("/v1/predictions", json={"input": PARAMETERS})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/version")


def test_weights_that_are_served_under_two_names(http: httpx2.Client, workers: Workers) -> None:
    """A model that was renamed: its version is that of the name which has a worker."""
    workers.come("a", "b")
    workers.leave("a")
    parameters = {"version": "0" * 64, "input": PARAMETERS}
    assert http.post("/v1/predictions", json=parameters).json()["model"] == "darkroom/b"
    workers.come("a")
    workers.leave("b")
    assert http.post("/v1/predictions", json=parameters).json()["model"] == "darkroom/a"


def test_replicates_model_says_how_it_stands(running: Running, workers: Workers, at_once: None) -> None:
    workers.come("a")
    found = running.client.get("/v1/models/darkroom/a").json()
    assert (found["state"], found["default"]) == ("ready", True)
    with test_replicate.official(running) as client:
        assert client.models.get("darkroom/a").description == "StableDiffusionPipeline"


def test_a_failed_job_of_a_forgotten_model_is_not_run_again(
    http: httpx2.Client, workers: Workers, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    worker.announce()
    job = send(http, model="starter")
    worker.fail(worker.claim())
    redis_client.hdel(keys.CARDS, "starter")
    workers.come("a")
    answer = http.post(f"{job['urls']['self']}/retry")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/job-not-retryable")
    assert "starter" in answer.json()["detail"]


def test_what_a_lora_does_is_shown(client: httpx2.Client, picture_folder: Path) -> None:
    data, folder = file_of(noise(), "JPEG"), picture_folder / "thumbnails"
    sha256 = hashlib.sha256(data).hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / f"{sha256}.jpg").write_bytes(data)
    shown = client.get(f"/v1/thumbnails/{sha256}")
    assert (shown.status_code, shown.content, shown.headers["content-type"]) == (200, data, "image/jpeg")
    again = client.get(f"/v1/thumbnails/{sha256}", headers={"If-None-Match": shown.headers["etag"]})
    assert again.status_code == 304
    for unknown in ("0" * 64, sha256.upper(), f"{sha256}%00", f"{sha256}.jpg"):
        assert problem(client.get(f"/v1/thumbnails/{unknown}")) == (404, "picture-not-found")
    (folder / f"{sha256}.jpg").unlink()


def test_a_model_that_has_to_be_loaded_is_asked_for_like_another(
    client: httpx2.Client, card: ModelCard, redis_client: redis.Redis, at_once: None
) -> None:
    """A worker with several folders serves it and has another one in memory: it says how long it will take."""
    redis_client.hset(keys.PACE + card.name, mapping={"job_ms": 3_000, "seat_ms": 3_000})
    Ownership(redis_client).announce(card, "w1", ready_in=12.34)
    model = client.get(f"/v1/models/{card.name}").json()
    assert (model["state"], model["workers"], model["in_memory"], model["ready_seconds"]) == ("ready", 1, 0, 12.3)
    job = client.post("/v1/jobs", json={"prompt": "a circle"}).json()
    assert (job["warnings"], job["queue"]["workers"], job["queue"]["eta_seconds"]) == ([], 1, 15.3)
    assert client.get("/readyz").json()["checks"]["workers"]["ok"]
    Ownership(redis_client).announce(card, "w1")
    model = client.get(f"/v1/models/{card.name}").json()
    assert (model["in_memory"], model["ready_seconds"]) == (1, None)
