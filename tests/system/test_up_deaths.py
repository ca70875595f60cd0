"""`darkroom up` in bad days: a process of it dies, or all of them, and no job is lost."""

from __future__ import annotations

import os
import signal

import pytest

from app import __version__
from app.contract.redis import keys
from tests.system.conftest import Installation, drawn, ended, processes_of
from tests.system.restarts import PARAMETERS, begun, is_ready, is_taken_up_again
from tests.waiting import until


@pytest.mark.timeout(600)
def test_starting_after_the_parent_was_killed(closed_installation: Installation) -> None:
    """A worker that died with it holds a job whose lease has an hour to go: the next start knows better."""
    installation = closed_installation
    installation.start_and_wait()
    with installation.client() as client:
        job = drawn(client, PARAMETERS)
        running = begun(client)
    worker = installation.put_worker_to_sleep(running["id"])
    assert installation.process is not None
    installation.process.kill()
    installation.process.communicate()
    os.kill(worker, signal.SIGKILL)
    installation.start_and_wait()
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        is_taken_up_again(client, running)
        assert drawn(client, PARAMETERS)["status"] == "succeeded"
    # The server of the killed one was taken over; its death is seen all the same.
    (pid,) = valkeys(installation)
    os.kill(pid, signal.SIGKILL)
    until(lambda: valkeys(installation) not in ([], [pid]) and is_ready(installation))
    with installation.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"
        assert drawn(client, PARAMETERS)["status"] == "succeeded"
    assert installation.stop() == 0
    assert "Valkey ended; starting it again" in installation.said
    assert processes_of(installation.data) == {}
    assert (installation.data / "workers").read_text() == "", "no name is left when all have ended"


def valkeys(installation: Installation) -> list[int]:
    return [pid for pid, line in processes_of(installation.data).items() if "valkey-server" in line]


def test_children_that_die_are_started_again(closed_installation: Installation) -> None:
    """What the worker was drawing is taken up by the next one, although its lease would last for an hour; and Valkey's
    death loses no job."""
    installation = closed_installation
    # A worker that is drained takes as long as its jobs do.
    installation.environment["DARKROOM_GRACE_SECONDS"] = "0"
    del installation.environment["DARKROOM_GATEWAY_PROCESSES"]
    installation.start_and_wait()
    with installation.client() as client:
        running = begun(client)
    installation.put_worker_to_sleep(running["id"])
    for name in ("worker", "gateway", "webhooks"):
        (pid,) = installation.pids(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: installation.pids(name) not in ([], [pid]))  # type: ignore[misc]
    with installation.client() as client:
        until(lambda: is_ready(installation))
        is_taken_up_again(client, running)
        jobs = [client.post("/v1/jobs", json=PARAMETERS | {"seed": seed}).json()["id"] for seed in range(5)]
        (pid,) = valkeys(installation)
        os.kill(pid, signal.SIGKILL)
        until(lambda: valkeys(installation) not in ([], [pid]) and is_ready(installation))
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
        done = ended(client, running)
        assert (done["status"], done["attempts"]) == ("succeeded", 1)
        until(lambda: installation.pids("worker") == [])
        until(lambda: (installation.data / "workers").read_text() == "")  # the supervisor has seen it
        assert client.post(f"/v1/admin/workers/{worker['name']}/drain", json={}).json()["state"] == "left"
        later = client.post("/v1/jobs", json=PARAMETERS | {"seed": 8}).json()
        assert client.get(later["urls"]["self"]).json()["status"] == "queued"
    assert installation.stop() == 0
    assert "worker was drained, and stays away until the next `" in installation.said
    assert installation.said.count("starting it again") == 4
