"""The processes apart, as in production: nothing secret is seen anywhere, a restricted Redis user is enough, and each
job is one trace from the request to the upload.

One story is played once; the tests look at what it left behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from app.contract.redis import keys
from app.contract.redis.rq_names import RQ_SUSPENDED
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, S3Server
from tests.system.separate import (
    Listener,
    Separate,
    bare_environment,
    listener,
    restricted_valkey,
    sentinel_of,
    signature_in,
    whole_redis,
)
from tests.waiting import WAIT_SECONDS, until

PROCESSES = ("gateway", "worker", "webhooks")
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

CANARIES = {
    "api key": "canary-key-" + "k" * 32,
    "prompt": "canary-prompt",
    "negative prompt": "canary-negative",
    "metadata": "canary-metadata",
    "webhook path": "canary-webhook-path",
    "idempotency key": "canary-idempotency",
    "signing key": "canary-signing-" + "s" * 32,
    "redis password": "canary-redis-password",
    "storage secret": SECRET_KEY,
    "collector key": "canary-collector-key",
    "what was refused": "canary-refused",
}


@dataclass(frozen=True)
class Story:
    """What was done, and what could be seen of it."""

    jobs: dict[str, dict[str, Any]]
    secrets: dict[str, str]
    seen: dict[str, str]
    spans: list[dict[str, Any]]
    exits: dict[str, int]
    webhooks: list[dict[str, Any]]
    denied: list[Any]

    def trace_of(self, job: str) -> list[dict[str, Any]]:
        """All spans of the trace in which a job was processed."""
        ids = {
            span["trace"] for span in self.spans if span["attributes"].get("darkroom.job.id") == self.jobs[job]["id"]
        }
        assert len(ids) == 1, "one trace per job"
        return [span for span in self.spans if span["trace"] in ids]


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where pictures are: the S3 server, if the tests may start it, or a folder. The secret is set in any case."""
    secret = {"DARKROOM_STORAGE_ACCESS_KEY_ID": ACCESS_KEY, "DARKROOM_STORAGE_SECRET_ACCESS_KEY": SECRET_KEY}
    if os.environ.get("DARKROOM_TEST_S3") != "1":
        return secret | {"DARKROOM_STORAGE_URL": (tmp_path_factory.mktemp("pictures") / "all").as_uri()}
    server: S3Server = request.getfixturevalue("s3_server")
    where = {"URL": server.url, "ENDPOINT": server.endpoint, "REGION": "us-east-1"}
    return secret | {f"DARKROOM_STORAGE_{name}": value for name, value in where.items()}


@pytest.fixture(scope="module")
def apart(
    place: dict[str, str], shared_machine: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Separate, Listener]]:
    """Ready, at DEBUG, with a collector that also takes webhooks."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "valkey").mkdir()
    valkey = restricted_valkey(folder / "valkey", CANARIES["redis password"])
    password = CANARIES["redis password"]
    with listener() as outside, sentinel_of(valkey, folder, password) as place_of_redis:
        users = {name: f"redis+sentinel://{name}:{password}@{place_of_redis}/0" for name in (*PROCESSES, "operator")}
        environment = shared_machine | {
            "DARKROOM_STORAGE_RESERVE_BYTES": "0",
            "DARKROOM_API_KEYS": f"ann:{CANARIES['api key']}",
            "DARKROOM_SIGNING_KEY": CANARIES["signing key"],
            "DARKROOM_LOG_LEVEL": "debug",
            "DARKROOM_GATEWAY_PROCESSES": "2",
            "DARKROOM_WEBHOOK_ALLOW_HTTP": "true",
            "DARKROOM_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
            "DARKROOM_WEBHOOK_PORTS": str(outside.server.server_port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": outside.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-collector-key={CANARIES['collector key']}",
            "PYTHONASYNCIODEBUG": "1",
        }
        own = {name: {"DARKROOM_REDIS_URL": url} for name, url in users.items()}
        service = Separate(folder, bare_environment() | environment | place, valkey, own)
        try:
            service.start()
            yield service, outside
        finally:
            service.kill()
            valkey.stop()


@pytest.fixture(scope="module")
def story(apart: tuple[Separate, Listener]) -> Story:
    service, outside = apart
    ann = {"Authorization": f"Bearer {CANARIES['api key']}"}
    jobs: dict[str, dict[str, Any]] = {}
    made_key = service.darkroom("keys", "create", "ann")
    hook = {"url": f"{outside.url}/{CANARIES['webhook path']}", "events": ["job.queued", "job.succeeded"]}
    parameters = {
        "prompt": f"a red circle {CANARIES['prompt']}",
        "negative_prompt": CANARIES["negative prompt"],
        "metadata": {"note": CANARIES["metadata"]},
        "webhook": hook,
        "preview_every": 4,
        "num_inference_steps": 12,
        "num_images": 2,
    }
    with (
        httpx2.Client(base_url=service.url, timeout=WAIT_SECONDS, trust_env=False) as client,
        service.redis_as_admin() as admin,
    ):
        admin.set(RQ_SUSPENDED, 1)
        sent = {"Idempotency-Key": CANARIES["idempotency key"], "traceparent": f"00-{TRACE}-{CALLER}-01"}
        path = client.post("/v1/jobs", json=parameters, headers=ann | sent).raise_for_status().headers["location"]
        queued = whole_redis(admin)
        admin.delete(RQ_SUSPENDED)
        told = client.get(f"{path}/events", headers=ann).text
        jobs["native"] = client.get(path, headers=ann).json()
        link = jobs["native"]["images"][0]["url"]
        assert client.get(link).status_code == 200
        dialect = {"prompt": CANARIES["prompt"], "n": 1, "size": "128x128", "response_format": "url"}
        other = client.post("/v1/images/generations", json=dialect, headers={"Authorization": f"Bearer {made_key}"})
        jobs["openai"] = {"id": other.raise_for_status().json()["job_id"]}
        called_off = client.post("/v1/jobs", json=parameters | {"num_inference_steps": 100}, headers=ann).json()
        client.post(f"/v1/jobs/{called_off['id']}/cancel", headers=ann)
        jobs["canceled"] = until(
            lambda: (now := client.get(called_off["urls"]["self"], headers=ann).json())["ended_at"] and now
        )
        refused = CANARIES["what was refused"]
        answers = [
            client.post("/v1/jobs", json=parameters | {"seed": refused}, headers=ann),
            client.post(
                "/v1/jobs",
                content=f'{{"prompt": "{refused}"'.encode(),
                headers=ann | {"Content-Type": "application/json"},
            ),
            client.post(f"/v1/jobs/{refused}/cancel", params={"key": refused}, headers=ann),
            client.get("/v1/jobs", headers={"Authorization": f"Bearer {refused}{made_key}"}),
            client.get(f"{link[:-4]}beef"),
            client.post("/v1/predictions", json={"version": refused, "input": {"prompt": refused}}, headers=ann),
            client.get("/readyz"),
            client.get("/metrics", headers=ann),
        ]
        secret = client.get("/v1/webhooks/default/secret", headers=ann).json()["key"]
        until(lambda: not admin.zcard(keys.OUTBOX))
        assert client.delete(called_off["urls"]["self"], headers=ann).status_code == 204
        metrics, afterwards = service.metrics(), whole_redis(admin)
        exits = service.stop()
        denied: Any = admin.acl_log()
    assert told.count("event: job.preview")
    seen = service.logs() | {
        "metrics": metrics,
        "redis, queued": queued,
        "redis, afterwards": afterwards,
        "answers": "".join(answer.text + str(answer.headers) for answer in answers),
        "spans": "".join(body.decode(errors="replace") for _, body in outside.came["/v1/traces"]),
    }
    secrets = CANARIES | {"made key": made_key, "webhook secret": secret, "signature": signature_in(link)}
    webhooks = [Webhook(secret).verify(body, headers) for headers, body in outside.came[f"/{CANARIES['webhook path']}"]]
    return Story(jobs, secrets, seen, outside.spans(), exits, webhooks, denied)


def test_a_redis_user_of_its_own_is_enough_for_each_process(story: Story) -> None:
    """Those of deploy/redis/users.acl, and a Redis that is found through a sentinel."""
    assert story.denied == []
    assert story.exits == {"gateway": 0, "worker": 0, "webhooks": 0}
    assert story.jobs["native"]["status"] == "succeeded"
    assert story.jobs["canceled"]["status"] == "canceled"
    assert {(each["type"], each["data"]["id"]) for each in story.webhooks} == {
        ("job.queued", story.jobs["native"]["id"]),
        ("job.queued", story.jobs["canceled"]["id"]),
        ("job.succeeded", story.jobs["native"]["id"]),
    }
    for name in PROCESSES:
        assert "NOPERM" not in story.seen[name]
        assert "Traceback" not in story.seen[name], story.seen[name]


def test_no_secret_is_seen_anywhere(story: Story) -> None:
    for marker, place in (("job accepted", "gateway"), ("claimed", "worker"), ("webhooks started", "webhooks")):
        assert marker in story.seen[place]
    assert "process generate-starter" in story.seen["spans"]
    for place, text in story.seen.items():
        found = [name for name, secret in story.secrets.items() if secret in text]
        assert not found, f"{found} in {place}"


def test_every_log_line_is_json_with_a_process(story: Story) -> None:
    for name in ("gateway", "worker", "webhooks"):
        lines = [json.loads(line) for line in story.seen[name].splitlines()]
        assert {line["process"] for line in lines} == {name}
        assert all(line["event"] and line["level"] and line["timestamp"] for line in lines)


STAGES = ("encode", "denoise", "decode", "upload")


def test_a_job_is_one_trace_from_the_callers_own_to_the_webhook(story: Story) -> None:
    spans = {span["name"]: span for span in story.trace_of("native")}
    request, attempt = spans["POST /v1/jobs"], spans["process generate-starter"]
    assert set(spans) == {request["name"], "queued", attempt["name"], *STAGES, "POST webhook"}
    assert request["trace"] == TRACE
    parents = {name: span["parent"] for name, span in spans.items()}
    assert parents == {
        request["name"]: CALLER,
        "queued": request["id"],
        attempt["name"]: request["id"],
        **dict.fromkeys(STAGES, attempt["id"]),
        "POST webhook": request["id"],
    }
    services = {name: span["service"] for name, span in spans.items()}
    others = {request["name"]: "darkroom-gateway", "POST webhook": "darkroom-webhooks"}
    assert services == dict.fromkeys(spans, "darkroom-worker") | others
    assert request["attributes"]["http.response.status_code"] == 202


def test_the_stages_follow_each_other(story: Story) -> None:
    spans = {span["name"]: span for span in story.trace_of("native")}
    attempt = spans["process generate-starter"]
    assert spans["queued"]["ended"] == attempt["began"]
    assert spans["queued"]["began"] < spans["queued"]["ended"]
    moments = [attempt["began"]]
    for name in STAGES:
        moments += [spans[name]["began"], spans[name]["ended"]]
        assert spans[name]["began"] < spans[name]["ended"]
    assert [*moments, attempt["ended"]] == sorted([*moments, attempt["ended"]])


def test_a_dialect_begins_a_trace_of_its_own(story: Story) -> None:
    spans = {span["name"]: span for span in story.trace_of("openai")}
    request = spans["POST /v1/images/generations"]
    assert (request["parent"], spans["process generate-starter"]["parent"]) == ("", request["id"])
    assert request["trace"] != TRACE


def test_a_canceled_attempt_says_so(story: Story) -> None:
    attempts = [span for span in story.trace_of("canceled") if span["name"].startswith("process")]
    assert all(span["attributes"]["darkroom.outcome"] == "stopped" for span in attempts)
    assert "upload" not in {span["name"] for span in story.trace_of("canceled")}


def test_refused_requests_are_named_by_their_route(story: Story) -> None:
    names = [
        (span["name"], span["attributes"]["http.response.status_code"])
        for span in story.spans
        if span["service"] == "darkroom-gateway"
    ]
    assert ("POST /v1/jobs", 422) in names
    assert ("POST", 400) in names, "refused before it had a route"
    assert ("POST /v1/jobs/{job_id}/cancel", 404) in names
