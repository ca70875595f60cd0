"""Redis is put back to an older file under a service that goes on: what is in the file is finished, what came after it
is named or unknown, and nothing breaks at what was done since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import PARAMETERS, Scene
from tests.waiting import until


def problem(scene: Scene, path: str) -> tuple[int, str]:
    answer = scene.client.get(path)
    return answer.status_code, answer.json()["type"]


@pytest.mark.timeout(600)
def test_a_service_goes_on_over_an_older_file(scene: Scene, tmp_path: Path) -> None:
    pid = scene.worker()
    kept, deleted = scene.send(), scene.send(seed=2)
    for job in (kept, deleted):
        assert scene.ended(job)["status"] == "succeeded"
    picture = scene.look(deleted)["images"][0]["url"]
    scene.service.stop_one("worker0")
    scene.gone(pid)
    waited = scene.send(seed=3)

    scene.valkey.is_killed()
    older = shutil.copytree(scene.valkey.folder, tmp_path / "older")
    scene.valkey.comes()
    pid = scene.worker()
    assert scene.ended(waited)["attempts"] == 1
    assert scene.client.delete(f"/v1/jobs/{deleted['id']}").status_code == 204
    until(lambda: not any(deleted["id"] in each for each in scene.stored()))
    again = {"Idempotency-Key": "later"}
    later = scene.client.post("/v1/jobs", json=PARAMETERS | {"seed": 4}, headers=again).json()
    scene.ended(later)
    with scene.held():
        running = scene.send(seed=5, num_inference_steps=50)
        scene.status(running, "running")
        scene.valkey.is_killed()
        shutil.rmtree(scene.valkey.folder)
        shutil.copytree(older, scene.valkey.folder)
        scene.valkey.comes()
        until(lambda: problem(scene, f"/v1/jobs/{running['id']}") == (404, "/problems/job-lost"))

    assert problem(scene, f"/v1/jobs/{later['id']}") == (404, "/problems/job-lost")
    assert scene.look(kept)["status"] == "succeeded"
    assert scene.client.get(scene.look(kept)["images"][0]["url"]).status_code == 200
    drawn_again = scene.ended(waited)
    assert (drawn_again["status"], drawn_again["attempts"]) == ("succeeded", 1), "the file says that it waits"
    assert scene.client.get(drawn_again["images"][0]["url"]).status_code == 200
    assert scene.look(deleted)["status"] == "succeeded", "the file does not know that it was deleted"
    assert scene.client.get(picture).status_code == 404
    sent = scene.client.post("/v1/jobs", json=PARAMETERS | {"seed": 4}, headers=again).json()
    assert sent["id"] != later["id"]
    assert scene.ended(sent)["status"] == "succeeded"
    assert scene.client.delete(f"/v1/jobs/{deleted['id']}").status_code == 204
    # The worker that went through it all has its seats back, and of what it drew for nobody nothing is left.
    assert scene.service.pids["worker0"] == pid
    until(lambda: not any(running["id"] in each for each in scene.stored()))
