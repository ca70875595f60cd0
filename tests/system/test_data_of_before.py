"""A data folder that an earlier version left behind, found again by this one.

`data_of_before.tar.gz` was written by `darkroom up` of commit 18e33e6, before passes, rows and families: two keys, a
finished, a canceled and an unfinished job, and two webhooks that nobody took. `expected.json` is what that version said
of them. Its records are kept for a hundred years.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from app.cli.embedded import EmbeddedValkey
from tests.cli.test_backup import assert_serves
from tests.system.conftest import COMMAND, Installation, ended
from tests.system.separate import Listener, listener
from tests.waiting import WAIT_SECONDS, until

ARCHIVE = Path(__file__).with_name("data_of_before.tar.gz")

PORT_OF_BEFORE = "54321"
"""Where its webhooks go. Another of as many digits fits into the append-only file."""


@dataclass
class Found:
    """What was `expected`, of whom to ask now, and who takes the webhooks."""

    expected: dict[str, Any]
    client: httpx2.Client
    outside: Listener
    data: Path

    def job(self, id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Found]:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    expected = json.loads((folder / "expected.json").read_text())
    with listener() as outside:
        port = str(outside.server.server_port)
        assert len(port) == len(PORT_OF_BEFORE)
        file = folder / "data" / "valkey" / "appendonlydir" / "appendonly.aof.1.incr.aof"
        file.write_bytes(file.read_bytes().replace(b":" + PORT_OF_BEFORE.encode(), b":" + port.encode()))
        installation = Installation(folder / "data")
        installation.environment |= shared_machine | {
            "DARKROOM_RETENTION_HOURS": "876000",
            "DARKROOM_WEBHOOK_ALLOW_HTTP": "true",
            "DARKROOM_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
            "DARKROOM_WEBHOOK_PORTS": port,
        }
        try:
            installation.start_and_wait()
            with installation.client() as client:
                client.headers["Authorization"] = f"Bearer {expected['key']}"
                yield Found(expected, client, outside, installation.data)
        finally:
            installation.kill_everything()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", ["succeeded", "canceled"])
def test_a_job_is_what_it_was(found: Found, which: str) -> None:
    then = found.expected[which]
    now = found.job(then["id"])
    # Where nothing was asked for an empty text stood then.
    asked = then["input"] | {"negative_prompt": then["input"]["negative_prompt"] or None}
    assert now["input"].items() >= asked.items(), "a parameter that came later has its default"
    assert now["progress"].items() >= then["progress"].items()
    compared_apart = {"urls", "images", "input", "progress"}
    assert {name: now[name] for name in then if name not in compared_apart} == {
        name: value for name, value in then.items() if name not in compared_apart
    }
    assert {image["sha256"] for image in now["images"]} == {image["sha256"] for image in then["images"]}
    for image in now["images"]:
        picture = found.client.get(image["url"]).content
        assert hashlib.sha256(picture).hexdigest() == image["sha256"]


def test_jobs_are_listed(found: Found) -> None:
    listed = {job["id"] for job in found.client.get("/v1/jobs").json()["data"]}
    ids = [found.expected[which]["id"] for which in ("succeeded", "canceled")]
    assert listed >= {*ids, *found.expected["webhooks"], found.expected["unfinished"]}


def test_keys_open_what_they_opened(found: Found) -> None:
    read = {"Authorization": f"Bearer {found.expected['read_key']}"}
    assert found.client.get("/v1/jobs", headers=read).json()["data"] == [], "bob's tenant has no jobs"
    assert found.client.post("/v1/jobs", json={"prompt": "a star"}, headers=read).status_code == 403
    assert found.client.get("/v1/jobs", headers={"Authorization": ""}).status_code == 401


def test_webhooks_that_were_owed_come_signed_with_the_same_secret(found: Found) -> None:
    secret = found.expected["webhook_secret"]
    assert found.client.get("/v1/webhooks/default/secret").json()["key"] == secret
    until(lambda: len(found.outside.came["/hook"]) >= len(found.expected["webhooks"]))
    messages = [Webhook(secret).verify(body, headers) for headers, body in found.outside.came["/hook"]]
    assert {message["data"]["id"] for message in messages} == set(found.expected["webhooks"])
    assert {message["type"] for message in messages} == {"job.succeeded"}


def test_a_backup_of_the_running_service_serves_the_same(found: Found) -> None:
    with tempfile.TemporaryDirectory(prefix="dr-") as folder:
        file, new = Path(folder) / "a.tar", Path(folder) / "new"
        for command, data in (("backup", found.data), ("restore", new)):
            done = subprocess.run([COMMAND, command, file, "--data", data], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert found.client.get("/readyz").status_code == 200
        (new / "logs").mkdir()
        valkey = EmbeddedValkey(new)
        valkey.start()
        try:
            assert_serves(new, found.expected)
        finally:
            valkey.stop()


@pytest.mark.timeout(WAIT_SECONDS + 600)
def test_a_job_that_was_unfinished_is_drawn(found: Found) -> None:
    job = ended(found.client, found.job(found.expected["unfinished"]))
    assert (job["status"], job["attempts"], len(job["images"])) == ("succeeded", 2, 4)
