"""`darkroom up` in good and bad days: stops, restarts, kills, and what it cannot start with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.redis import keys
from benchmarks.ports import free_port
from tests.patience import PATIENCE, until
from tests.storage_servers import S3Server
from tests.system.conftest import COMMAND, House, drawn, ended, processes_of

WISH = {"prompt": "a red circle on a blue background", "seed": 7, "num_inference_steps": 4}
LONG_WISH = WISH | {"num_inference_steps": 100, "num_images": 4}


def test_stopping_leaves_nothing_and_starting_again_finds_everything(closed_house: House) -> None:
    house = closed_house
    house.start_and_wait()
    with house.client() as client:
        job = drawn(client, WISH)
        picture = client.get(job["images"][0]["url"]).content
    assert house.stop(signal.SIGINT) == 0
    assert processes_of(house.data) == {}

    house.start_and_wait()
    with house.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert client.get(job["images"][0]["url"]).content == picture, "links outlive a restart"
        assert [each["id"] for each in client.get("/v1/jobs").json()["data"]] == [job["id"]]
    assert house.stop(signal.SIGTERM) == 0
    assert processes_of(house.data) == {}


def test_impatient_signals_stop_it_all_the_same(closed_house: House) -> None:
    """One came inside a lock that the handler wanted, others while the interpreter ended."""
    house = closed_house
    house.start_and_wait()
    assert house.process is not None

    def told_again() -> bool:
        house.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        return house.process.poll() is not None  # type: ignore[union-attr]

    until(told_again, pause=0.001)
    assert house.process.returncode == 0
    assert processes_of(house.data) == {}


def test_a_running_job_survives_a_restart(closed_house: House) -> None:
    house = closed_house
    house.environment["DARKROOM_GRACE_SECONDS"] = "0"
    house.start_and_wait()
    with house.client() as client:
        job = client.post("/v1/jobs", json=LONG_WISH).json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
    assert house.stop() == 0
    house.start_and_wait()
    with house.client() as client:
        seen = ended(client, job)
    assert (seen["status"], seen["attempts"]) == ("succeeded", 2)


@pytest.mark.timeout(600)
def test_starting_after_the_parent_was_killed(closed_house: House) -> None:
    """A worker that died with it holds a job whose lease has an hour to go: the next start knows better."""
    house = closed_house
    house.start_and_wait()
    with house.client() as client:
        job = drawn(client, WISH)
        running = client.post("/v1/jobs", json=LONG_WISH).json()
        until(lambda: client.get(f"/v1/jobs/{running['id']}").json()["status"] == "running")
    worker = house.stop_worker_for_good(running["id"])
    assert house.process is not None
    house.process.kill()
    house.process.communicate()
    os.kill(worker, signal.SIGKILL)
    house.start_and_wait()
    with house.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        _is_taken_up_again(client, running)
        assert drawn(client, WISH)["status"] == "succeeded"
    # The server of the killed one was taken over; its death is seen all the same.
    (pid,) = valkeys(house)
    os.kill(pid, signal.SIGKILL)
    until(lambda: valkeys(house) not in ([], [pid]) and _is_ready(house))
    with house.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert drawn(client, WISH)["status"] == "succeeded"
    assert house.stop() == 0
    assert "Valkey ended; starting it again" in house.said
    assert processes_of(house.data) == {}
    assert (house.data / "workers").read_text() == "", "no name is left when all have ended"


def valkeys(house: House) -> list[int]:
    return [pid for pid, line in processes_of(house.data).items() if "valkey-server" in line]


@pytest.mark.timeout(600)
def test_everything_that_its_environment_says_is_done(closed_house: House, tmp_path: Path) -> None:
    """Of the settings, those whose effect can be seen from outside; test_up_settings.py has the others."""
    house, (metrics, worker_metrics) = closed_house, (free_port(), free_port())
    house.options, house.cwd = ["--data", str(house.data)], tmp_path
    house.environment = {
        "DARKROOM_HOST": "localhost",
        "DARKROOM_PORT": str(house.port),
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
    house.start()
    assert house.process is not None
    assert house.process.stdout is not None
    assert house.process.stdout.readline() == f"darkroom is ready: http://localhost:{house.port}\n"
    public = {"Host": "pictures.example.org"}
    with httpx2.Client(base_url=f"http://localhost:{house.port}", timeout=PATIENCE, trust_env=False) as client:
        assert client.get("/v1/jobs").status_code == 421
        assert client.get("/docs", headers=public).status_code == 200
        job = drawn(client, WISH, **public)
        [model] = client.get("/v1/models", headers=public).json()["data"]
    assert job["status"] == "succeeded"
    assert job["urls"]["self"].startswith("https://pictures.example.org/")
    assert model["id"] == "painter"
    assert list((tmp_path / "data" / "pictures" / "images").rglob("*.png"))
    until((tmp_path / "alive").exists)
    for port, name in ((metrics, "darkroom_queue_depth"), (worker_metrics, "darkroom_seats 3.0")):
        assert name in httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=PATIENCE).text
    assert house.stop() == 0


def test_children_that_die_are_started_again(closed_house: House) -> None:
    """What the worker was drawing is taken up by the next one, although its lease would last for an hour."""
    house = closed_house
    house.start_and_wait()
    with house.client() as client:
        running = client.post("/v1/jobs", json=LONG_WISH).json()
        until(lambda: client.get(f"/v1/jobs/{running['id']}").json()["status"] == "running")
    house.stop_worker_for_good(running["id"])
    for name in ("worker", "gateway", "webhooks"):
        (pid,) = house.pids(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: house.pids(name) not in ([], [pid]))  # type: ignore[misc]
    with house.client() as client:
        until(lambda: _is_ready(house))
        _is_taken_up_again(client, running)
        assert drawn(client, WISH)["status"] == "succeeded"
    with house.redis() as client:
        assert client.hget(keys.JOB + running["id"], "failures") == "1", "a death is a death"


def test_valkey_killed_loses_no_job(closed_house: House) -> None:
    house = closed_house
    house.start_and_wait()
    with house.client() as client:
        jobs = [client.post("/v1/jobs", json=WISH | {"seed": seed}).json()["id"] for seed in range(5)]
        (pid,) = [pid for pid, line in processes_of(house.data).items() if "valkey-server" in line]
        os.kill(pid, signal.SIGKILL)
        until(lambda: _is_ready(house))
        for job_id in jobs:
            assert ended(client, {"id": job_id})["status"] == "succeeded"


def _is_taken_up_again(client: httpx2.Client, job: dict[str, Any]) -> None:
    """And called off then: it is long."""
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["attempts"] == 2)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert ended(client, job)["status"] == "canceled"


def _is_ready(house: House) -> bool:
    with house.client() as client:
        try:
            return client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


def fails_with(house: House, *words: str) -> None:
    house.start()
    said = house.output()
    assert house.process is not None
    assert house.process.returncode == 78, said
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    assert processes_of(house.data) == {}


def test_a_busy_port(closed_house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", closed_house.port))
        taken.listen()
        fails_with(closed_house, "gateway cannot start", str(closed_house.port), "--port")


def test_a_data_folder_that_cannot_be_written(closed_house: House, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    closed_house.data = tmp_path / "file" / "data"
    fails_with(closed_house, "cannot be written", "--data")


def test_a_second_house_in_the_same_folder(house_pair: tuple[House, House]) -> None:
    first, second = house_pair
    first.start_and_wait()
    second.start()
    assert second.process is not None
    assert second.process.stderr is not None
    assert "waiting for the processes of an earlier start" in second.process.stderr.readline()
    assert second.stop() == 78
    with first.client() as client:
        assert client.get("/healthz").status_code == 200


@pytest.fixture
def house_pair(closed_house: House) -> tuple[House, House]:
    return closed_house, House(closed_house.data)


def test_a_folder_that_is_no_model(closed_house: House, tmp_path: Path) -> None:
    closed_house.environment["DARKROOM_MODEL"] = str(tmp_path)
    fails_with(closed_house, "worker cannot start", "model_index.json")


def test_weights_in_pickle_form(closed_house: House, tmp_path: Path) -> None:
    shutil.copytree(BUNDLED_MODEL, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin")).write_bytes(b"\x80\x04.")
    closed_house.environment["DARKROOM_MODEL"] = str(tmp_path / "model")
    fails_with(closed_house, "worker cannot start", "safetensors")


def test_a_misspelt_setting(closed_house: House) -> None:
    closed_house.environment["DARKROOM_SEAT"] = "4"
    fails_with(closed_house, "DARKROOM_SEAT is not", "DARKROOM_SEATS")


def test_generate_without_a_service(closed_house: House, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "generate", "a circle", "-o", str(tmp_path / "out.png"), "--url", closed_house.url],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 3
    assert "darkroom up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_redis_that_is_not_there(closed_house: House) -> None:
    closed_house.environment["REDIS_URL"] = f"redis://127.0.0.1:{closed_house.port}/0"
    fails_with(closed_house, "does not answer", "REDIS_URL")


@pytest.mark.s3
def test_storage_away_loses_no_job(closed_house: House, s3_server_killed: S3Server) -> None:
    house, bucket = closed_house, s3_server_killed
    bucket.start()
    house.environment |= bucket.env | {"DARKROOM_STORAGE_URL": bucket.url, "DARKROOM_STORAGE_ENDPOINT": bucket.endpoint}
    house.start_and_wait()
    with house.client() as client:
        first = drawn(client, WISH)
        assert httpx2.get(first["images"][0]["url"], trust_env=False, timeout=PATIENCE).content[:4] == b"\x89PNG"
        bucket.kill()
        lost = client.post("/v1/jobs", json=WISH).json()
        until(lambda: "storage fault" in house.log("worker") or "upload failed" in house.log("worker"))
        bucket.start()
        found = ended(client, lost)
        assert found["status"] == "succeeded"
        assert httpx2.get(found["images"][0]["url"], trust_env=False, timeout=PATIENCE).content[:4] == b"\x89PNG"
