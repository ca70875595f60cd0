"""`darkroom up` in good and bad days: stops, restarts, kills, and what it cannot start with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app import __version__
from app.contract.redis import keys
from benchmarks import memory
from benchmarks.one_machine import Service
from benchmarks.ports import free_port
from tests.storage_servers import S3Server
from tests.system.conftest import COMMAND, Installation, drawn, ended, processes_of
from tests.waiting import WAIT_SECONDS, until

PARAMETERS = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 4}
LONG_PARAMETERS = PARAMETERS | {"num_inference_steps": 100, "num_images": 4}


def test_stopping_leaves_nothing_and_starting_again_finds_everything(closed_installation: Installation) -> None:
    """The job that it had begun, too, and what the worker found out about its model, which takes it seconds."""
    installation = closed_installation
    del installation.environment["DARKROOM_PROFILE_FOLDER"]
    installation.environment["DARKROOM_GRACE_SECONDS"] = "0"
    installation.start_and_wait()
    [tried] = [file for file in (installation.data / "profiles").iterdir() if "step_limits" in file.read_text()]
    written = tried.stat().st_mtime_ns
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        picture = client.get(job["images"][0]["url"]).content
        running = _begun(client)
    assert installation.stop(signal.SIGINT) == 0
    assert processes_of(installation.data) == {}

    installation.start_and_wait()
    assert tried.stat().st_mtime_ns == written
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert client.get(job["images"][0]["url"]).content == picture, "links outlive a restart"
        assert {each["id"] for each in client.get("/v1/jobs").json()["data"]} == {job["id"], running["id"]}
        _is_taken_up_again(client, running)
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
def test_starting_after_the_parent_was_killed(closed_installation: Installation) -> None:
    """A worker that died with it holds a job whose lease has an hour to go: the next start knows better."""
    installation = closed_installation
    installation.start_and_wait()
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        running = _begun(client)
    worker = installation.put_worker_to_sleep(running["id"])
    assert installation.process is not None
    installation.process.kill()
    installation.process.communicate()
    os.kill(worker, signal.SIGKILL)
    installation.start_and_wait()
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        _is_taken_up_again(client, running)
        assert drawn(client, PARAMETERS)["status"] == "succeeded"
    # The server of the killed one was taken over; its death is seen all the same.
    (pid,) = valkeys(installation)
    os.kill(pid, signal.SIGKILL)
    until(lambda: valkeys(installation) not in ([], [pid]) and _is_ready(installation))
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert drawn(client, PARAMETERS)["status"] == "succeeded"
    assert installation.stop() == 0
    assert "Valkey ended; starting it again" in installation.said
    assert processes_of(installation.data) == {}
    assert (installation.data / "workers").read_text() == "", "no name is left when all have ended"


def valkeys(installation: Installation) -> list[int]:
    return [pid for pid, line in processes_of(installation.data).items() if "valkey-server" in line]


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
        "DARKROOM_GATEWAY_PROCESSES": "1",
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


def test_children_that_die_are_started_again(closed_installation: Installation) -> None:
    """What the worker was drawing is taken up by the next one, although its lease would last for an hour; and Valkey's
    death loses no job."""
    installation = closed_installation
    # A worker that is drained takes as long as its jobs do.
    installation.environment["DARKROOM_GRACE_SECONDS"] = "0"
    installation.start_and_wait()
    with installation.client() as client:
        running = _begun(client)
    installation.put_worker_to_sleep(running["id"])
    for name in ("worker", "gateway", "webhooks"):
        (pid,) = installation.pids(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: installation.pids(name) not in ([], [pid]))  # type: ignore[misc]
    with installation.client() as client:
        until(lambda: _is_ready(installation))
        _is_taken_up_again(client, running)
        jobs = [client.post("/v1/jobs", json=PARAMETERS | {"seed": seed}).json()["id"] for seed in range(5)]
        (pid,) = valkeys(installation)
        os.kill(pid, signal.SIGKILL)
        until(lambda: valkeys(installation) not in ([], [pid]) and _is_ready(installation))
        for job_id in jobs:
            assert ended(client, {"id": job_id})["status"] == "succeeded"
    with installation.redis() as client:
        assert client.hget(keys.JOB + running["id"], "failures") == "1", "a death is a death"
    _is_drained(installation)


def _is_drained(installation: Installation) -> None:
    """A worker that an operator wants away finishes what it draws, however long that takes, and stays away."""
    with installation.client() as client:
        assert client.get("/v1/admin/workers").status_code == 403, "whoever else comes from this machine"
        client.headers["Authorization"] = f"Bearer {(installation.data / 'operator.token').read_text()}"
        [worker] = until(lambda: client.get("/v1/admin/workers").json()["data"])
        assert (worker["state"], worker["version"]) == ("serving", __version__)
        running = client.post("/v1/jobs", json=PARAMETERS | {"num_inference_steps": 30}).json()
        until(lambda: client.get(running["urls"]["self"]).json()["status"] != "queued")
        told = client.post(f"/v1/admin/workers/{worker['name']}/drain", json={}).json()
        assert told["state"] == "draining"
        later = client.post("/v1/jobs", json=PARAMETERS | {"seed": 8}).json()
        done = ended(client, running)
        assert (done["status"], done["attempts"]) == ("succeeded", 1)
        until(lambda: installation.pids("worker") == [])
        until(lambda: (installation.data / "workers").read_text() == "")  # the supervisor has seen it
        assert client.post(f"/v1/admin/workers/{worker['name']}/drain", json={}).json()["state"] == "left"
        assert client.get(later["urls"]["self"]).json()["status"] == "queued"
    assert installation.stop() == 0
    assert "worker was drained, and stays away until the next `darkroom up`" in installation.said
    assert installation.said.count("starting it again") == 4


def _begun(client: httpx2.Client) -> dict[str, Any]:
    """A long job that is being drawn."""
    job: dict[str, Any] = client.post("/v1/jobs", json=LONG_PARAMETERS).json()
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
    return job


def _is_taken_up_again(client: httpx2.Client, job: dict[str, Any]) -> None:
    """And called off then: it is long."""
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["attempts"] == 2)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert ended(client, job)["status"] == "canceled"


def _is_ready(installation: Installation) -> bool:
    with installation.client() as client:
        try:
            return client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


def fails_with(installation: Installation, *words: str) -> None:
    installation.start()
    said = installation.output()
    assert installation.process is not None
    assert installation.process.returncode == 78, said
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    assert processes_of(installation.data) == {}


def test_a_busy_port(closed_installation: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", closed_installation.port))
        taken.listen()
        fails_with(closed_installation, "gateway cannot start", str(closed_installation.port), "--port")


def test_a_data_folder_that_cannot_be_written(closed_installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    closed_installation.data = tmp_path / "file" / "data"
    fails_with(closed_installation, "cannot be written", "--data")


def test_a_folder_that_is_no_model(closed_installation: Installation, tmp_path: Path) -> None:
    closed_installation.environment["DARKROOM_MODEL"] = str(tmp_path)
    fails_with(closed_installation, "worker cannot start", "model_index.json")


def test_a_misspelt_setting(closed_installation: Installation) -> None:
    closed_installation.environment["DARKROOM_SEAT"] = "4"
    fails_with(closed_installation, "DARKROOM_SEAT is not", "DARKROOM_SEATS")


def test_generate_without_a_service(closed_installation: Installation, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "generate", "a circle", "-o", str(tmp_path / "out.png"), "--url", closed_installation.url],
        capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 3
    assert "darkroom up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_redis_that_is_not_there(closed_installation: Installation) -> None:
    closed_installation.environment["REDIS_URL"] = f"redis://127.0.0.1:{closed_installation.port}/0"
    fails_with(closed_installation, "does not answer", "REDIS_URL")


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


def test_the_bench_of_memory_sees_its_worker(installation: Installation) -> None:
    assert installation.process is not None
    service = Service(installation.data, installation.url, installation.process.pid)
    ready, peak = memory.worker_mb(service, 1, 2)
    assert service.worker().pid in installation.pids("worker")
    assert 100 < ready <= peak
