"""`darkroom up` stops, starts again, does what its environment says, and waits for a storage that is away."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx2
import pytest

from benchmarks.ports import free_port
from tests.storage_servers import S3Server
from tests.system.conftest import Installation, drawn, ended, processes_of
from tests.system.restarts import PARAMETERS, begun, is_taken_up_again
from tests.waiting import WAIT_SECONDS, until


def test_stopping_leaves_nothing_and_starting_again_finds_everything(closed_installation: Installation) -> None:
    """The job that it had begun, too, and what the worker found out about its model, which takes it seconds."""
    installation = closed_installation
    for name in ("DARKROOM_PROFILE_FOLDER", "DARKROOM_GATEWAY_PROCESSES"):
        del installation.environment[name]
    installation.environment["DARKROOM_GRACE_SECONDS"] = "0"
    installation.start_and_wait()
    [tried] = [file for file in (installation.data / "profiles").iterdir() if "step_limits" in file.read_text()]
    written = tried.stat().st_mtime_ns
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        picture = client.get(job["images"][0]["url"]).content
        running = begun(client)
    assert installation.stop(signal.SIGINT) == 0
    assert processes_of(installation.data) == {}

    installation.start_and_wait()
    assert tried.stat().st_mtime_ns == written
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert client.get(job["images"][0]["url"]).content == picture, "links outlive a restart"
        assert {each["id"] for each in client.get("/v1/jobs").json()["data"]} == {job["id"], running["id"]}
        is_taken_up_again(client, running)
    _is_told_again_and_again(installation)
    assert processes_of(installation.data) == {}


def _is_told_again_and_again(installation: Installation) -> None:
    """Impatient signals stop it all the same: one came inside a lock that the handler wanted, others while the
    interpreter ended."""
    process = installation.process
    assert process is not None

    def told_again() -> bool:
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None

    until(told_again, pause=0.001)
    assert process.returncode == 0


@pytest.mark.timeout(600)
def test_everything_that_its_environment_says_is_done(closed_installation: Installation, tmp_path: Path) -> None:
    """Of the settings, those whose effect can be seen from outside; test_up_settings.py has the others."""
    installation, (metrics, worker_metrics) = closed_installation, (free_port(), free_port())
    installation.options, installation.cwd = ["--data", str(installation.data)], tmp_path
    installation.environment |= {
        "DARKROOM_HOST": "localhost",
        "DARKROOM_PORT": str(installation.port),
        "DARKROOM_PUBLIC_URL": "https://pictures.example.org",
        "DARKROOM_ALLOWED_HOSTS": "pictures.example.org",
        "DARKROOM_DOCS": "true",
        "DARKROOM_METRICS_PORT": str(metrics),
        "DARKROOM_WORKER_METRICS_PORT": str(worker_metrics),
        "DARKROOM_STORAGE_URL": "./data/pictures",
        "DARKROOM_MODEL_NAME": "painter",
        "DARKROOM_SEATS": "3",
        "DARKROOM_HEARTBEAT_FILE": "alive",
    }
    installation.start()
    assert installation.process is not None
    assert installation.process.stdout is not None
    assert installation.process.stdout.readline() == f"darkroom is ready: http://localhost:{installation.port}\n"
    public = {"Host": "pictures.example.org"}
    with httpx2.Client(
        base_url=f"http://localhost:{installation.port}", timeout=WAIT_SECONDS, trust_env=False
    ) as client:
        assert client.get("/v1/jobs").status_code == 421
        assert client.get("/docs", headers=public).status_code == 200
        job = drawn(client, PARAMETERS, **public)
        model, scorer = client.get("/v1/models", headers=public).json()["data"]
    assert job["status"] == "succeeded"
    assert job["urls"]["self"].startswith("https://pictures.example.org/")
    assert (model["id"], scorer["id"]) == ("painter", "starter-scorer")
    assert list((tmp_path / "data" / "pictures" / "images").rglob("*.png"))
    until((tmp_path / "alive").exists)
    for port, name in ((metrics, "darkroom_queue_depth"), (worker_metrics, "darkroom_seats 3.0")):
        assert name in httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=WAIT_SECONDS).text
    assert installation.stop() == 0


@pytest.mark.s3
def test_storage_away_loses_no_job(closed_installation: Installation, s3_server_killed: S3Server) -> None:
    installation, bucket = closed_installation, s3_server_killed
    bucket.start()
    installation.environment |= bucket.env | {
        "DARKROOM_STORAGE_URL": bucket.url,
        "DARKROOM_STORAGE_ENDPOINT": bucket.endpoint,
    }
    installation.start_and_wait()
    with installation.client() as client:
        first = drawn(client, PARAMETERS)
        assert httpx2.get(first["images"][0]["url"], trust_env=False, timeout=WAIT_SECONDS).content[:4] == b"\x89PNG"
        bucket.kill()
        lost = client.post("/v1/jobs", json=PARAMETERS).json()
        until(lambda: "transfer failed" in installation.log("worker"))
        bucket.start()
        found = ended(client, lost)
        assert found["status"] == "succeeded"
        assert httpx2.get(found["images"][0]["url"], trust_env=False, timeout=WAIT_SECONDS).content[:4] == b"\x89PNG"
