"""Workers that die, sleep or are told to stop, at every stage: what the client sees is one result, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable

import httpx2
import pytest

from app.contract.messages.picture_record import read_record
from app.contract.objects.names import CELL_MARK
from app.contract.redis import keys
from benchmarks.ports import free_port
from tests.faults.conftest import Scene, announced
from tests.faults.fork_server import LEASE, LEASE_MS
from tests.waiting import WAIT_SECONDS, until


@pytest.mark.parametrize("stage", ["claimed", "denoise", "upload", "before finish"])
def test_killed_before_the_record_knew(scene: Scene, stage: str) -> None:
    pid = scene.worker("worker0", dies=stage)
    job = scene.send(num_images=2)
    scene.gone(pid)
    scene.lease_runs_out(job)
    scene.worker("worker1")
    ended = scene.ended(job)
    assert (ended["status"], ended["attempts"], len(ended["images"])) == ("succeeded", 2, 2)
    assert scene.events(job) == ["job.queued", "job.started", "job.restarted", "job.started", "job.succeeded"]
    scene.only_the_winner_is_left(job)


def test_killed_after_the_finish(scene: Scene) -> None:
    pid = scene.worker("worker0", dies="after finish")
    job = scene.send()
    ended = scene.ended(job)
    scene.gone(pid)
    assert (ended["status"], ended["attempts"]) == ("succeeded", 1)
    assert scene.client.get(ended["images"][0]["url"]).status_code == 200
    scene.only_the_winner_is_left(job)


def test_asleep_beyond_its_lease(scene: Scene) -> None:
    """SIGSTOP, another worker finishes, SIGCONT: the sleeper goes on drawing and is refused."""
    scene.worker("worker0", step=0.2)
    with scene.held():
        job = scene.send(num_inference_steps=8)
        until(lambda: scene.look(job)["progress"]["step"] >= 2)
        scene.service.signal("worker0", signal.SIGSTOP)
        scene.lease_runs_out(job)
    scene.worker("worker1")
    ended = scene.ended(job)
    assert (ended["status"], ended["attempts"]) == ("succeeded", 2)
    picture = scene.client.get(ended["images"][0]["url"]).content
    scene.service.signal("worker0", signal.SIGCONT)
    until(lambda: "no longer ours" in (scene.service.folder / "worker0.log").read_text())
    assert scene.events(job).count("job.succeeded") == 1
    assert scene.client.get(scene.look(job)["images"][0]["url"]).content == picture
    scene.only_the_winner_is_left(job)


def test_told_to_stop_in_a_job_that_is_shorter_than_the_grace(make_scene: Callable[..., Scene]) -> None:
    scene = announced(make_scene(DARKROOM_GRACE_SECONDS=str(WAIT_SECONDS)))
    pid = scene.worker("worker0")
    with scene.held():
        job = scene.send()
        scene.status(job, "running")
        scene.service.stop_one("worker0")
    scene.gone(pid)
    assert scene.look(job)["status"] == "succeeded"


def test_told_to_stop_in_a_job_that_is_longer_than_the_grace(scene: Scene) -> None:
    """Another worker goes on at once, not when a lease has run out, which would be after this test."""
    scene.worker("worker0", step=1)
    job = scene.send(num_inference_steps=1_000)
    scene.status(job, "running")
    scene.worker("worker1", step=1)
    scene.service.stop_one("worker0")
    until(lambda: scene.events(job)[-2:] == ["job.restarted", "job.started"])
    record = scene.redis.hgetall(keys.JOB + job["id"])
    assert record["failures"] == "0", "an attempt that was given back is not counted"  # type: ignore[index]
    assert scene.client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert scene.ended(job)["status"] == "canceled"


@pytest.mark.parametrize("how", ["killed", "told to stop"])
def test_its_job_goes_on_from_the_newest_snapshot(make_scene: Callable[..., Scene], how: str) -> None:
    """And no evaluation is made twice that was behind it then."""
    scene = announced(make_scene(DARKROOM_SNAPSHOT_SECONDS="0.001", DARKROOM_GRACE_SECONDS="0"))
    pid = scene.worker("worker0")
    with scene.held():
        job = scene.send(num_inference_steps=6)
        until(lambda: scene.redis.hget(keys.SNAPSHOT + job["id"], "step") == "2")
        scene.service.signal("worker0", signal.SIGKILL if how == "killed" else signal.SIGTERM)
        scene.gone(pid)
    if how == "killed":
        scene.lease_runs_out(job)
    scene.worker("worker1")
    ended = scene.ended(job)
    assert (ended["status"], ended["attempts"], ended["resumed_at_step"]) == ("succeeded", 2, 2)
    entries = scene.redis.xrange(keys.EVENTS + job["id"])
    starts = [json.loads(fields["data"]) for _, fields in entries if fields["event"] == "job.started"]
    assert starts == [{"attempts": 1}, {"attempts": 2, "resumed_at_step": 2}]
    record = read_record(scene.client.get(ended["images"][0]["url"]).content)
    assert record["resumed_at_step"] == 2
    assert not [*scene.redis.scan_iter(f"{keys.SNAPSHOT}*")]


def test_told_to_stop_while_a_batch_job_is_put_aside(make_scene: Callable[..., Scene]) -> None:
    """It had all seats, and made room. It stood where it goes on; nothing else was kept of it."""
    scene = announced(make_scene(DARKROOM_SNAPSHOT_SECONDS="1000", DARKROOM_GRACE_SECONDS="0"))
    pid = scene.worker("worker0")
    with scene.held():
        batch = scene.send(num_images=4, priority="batch", num_inference_steps=6)
        until(lambda: scene.look(batch)["progress"]["step"] == 2)
        urgent = scene.send(num_inference_steps=6)
        until(lambda: "put aside" in (scene.service.folder / "worker0.log").read_text())
        assert [scene.look(job)["status"] for job in (batch, urgent)] == ["running", "running"]
        scene.service.signal("worker0", signal.SIGTERM)
        scene.gone(pid)
    scene.worker("worker1")
    ended = [scene.ended(job) for job in (batch, urgent)]
    assert [(job["status"], job["attempts"]) for job in ended] == [("succeeded", 2)] * 2
    assert ended[0]["resumed_at_step"] == 2
    assert scene.events(batch) == [
        "job.queued", "job.started", "job.restarted", "job.started", "job.succeeded",
    ]  # fmt: skip


def test_a_prompt_that_kills_its_worker_each_time(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(**{LEASE: str(LEASE_MS)})
    scene.service.start()
    until(lambda: scene.client.get("/readyz").status_code == 200)
    poison, *neighbours = [scene.send(prompt=prompt) for prompt in ("poison", *["a circle"] * 5)]
    assert {scene.ended(job)["status"] for job in neighbours} == {"succeeded"}
    ended = scene.ended(poison)
    assert (ended["status"], ended["attempts"]) == ("failed", keys.MAX_ATTEMPTS)
    assert ended["error"]["type"] == "/problems/attempts-exhausted"
    assert scene.redis.zrange(keys.DEAD, 0, -1) == [poison["id"]]


@pytest.mark.parametrize("misfortune", ["a step without end", "a lost device"])
def test_a_worker_that_cannot_go_on_ends_itself(make_scene: Callable[..., Scene], misfortune: str) -> None:
    """The process goes, so that its jobs run elsewhere, and so does the job that brought it down, in the end."""
    scene = make_scene(DARKROOM_STALL_SECONDS="0.5")
    scene.service.start()
    until(lambda: scene.client.get("/readyz").status_code == 200)
    unlucky = scene.send(prompt=misfortune)
    error = scene.ended(unlucky)["error"]
    assert error["type"] == "/problems/attempts-exhausted"
    if "step" in misfortune:
        assert "its denoise took longer than 0.5 s" in error["detail"]
        assert "DARKROOM_STALL_SECONDS" in error["detail"]
    else:
        assert "the device or the engine broke" in error["detail"]
    assert scene.ended(scene.send())["status"] == "succeeded"
    logs = "".join(log.read_text() for log in scene.service.folder.glob("worker*.log"))
    assert ("no step has ended for too long" if "step" in misfortune else "the engine broke") in logs


def test_redis_is_read_only_for_a_while(scene: Scene) -> None:
    """As it is on a primary that was demoted: reads work, every write is refused."""
    scene.worker("worker0")
    with scene.held():
        job = scene.send()
        until(lambda: scene.look(job)["progress"]["step"] >= 2)
        scene.redis.replicaof("127.0.0.1", str(free_port()))
        refused = scene.client.post("/v1/jobs", json={"prompt": "a circle"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert scene.look(job)["status"] == "running", "reads work"
    until(lambda: "the result is kept" in (scene.service.folder / "worker0.log").read_text())
    scene.redis.replicaof("NO", "ONE")
    assert scene.ended(job)["status"] == "succeeded"
    scene.only_the_winner_is_left(job)


def test_storage_refuses(scene: Scene) -> None:
    scene.worker("worker0")
    with scene.held():
        job = scene.send()
        scene.status(job, "running")
        shutil.rmtree(scene.service.pictures)
        scene.service.pictures.write_bytes(b"a file where the folder was")
    ended = scene.ended(job)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "/problems/storage-denied")
    scene.service.pictures.unlink()
    scene.service.pictures.mkdir()
    assert scene.ended(scene.send())["status"] == "succeeded", "the worker probes until it is well again"


def test_redis_dies_while_a_result_is_on_its_way(scene: Scene) -> None:
    scene.worker("worker0")
    with scene.held():
        job = scene.send()
        until(lambda: scene.look(job)["progress"]["step"] >= 2)
        scene.valkey.is_killed()
        refused = scene.client.post("/v1/jobs", json={"prompt": "a circle"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    until(lambda: "the result is kept" in (scene.service.folder / "worker0.log").read_text())
    scene.valkey.comes()
    until(lambda: scene.client.get("/healthz").status_code == 200)
    until(lambda: scene.client.get(f"/v1/jobs/{job['id']}").status_code == 200)
    assert scene.ended(job)["status"] == "succeeded"
    scene.only_the_winner_is_left(job)


def test_redis_came_back_empty(scene: Scene) -> None:
    scene.worker("worker0")
    job = scene.send()
    scene.ended(job)
    scene.redis.flushall()
    until(lambda: scene.client.get("/readyz").status_code == 503)
    assert "restart the gateways" in scene.client.get("/readyz").json()["checks"]["redis"]["detail"]
    for answer in (scene.client.get(f"/v1/jobs/{job['id']}"), scene.client.get("/v1/jobs")):
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-unavailable")
    scene.service.signal("gateway", signal.SIGKILL)
    scene.gone(scene.service.pids["gateway"])
    scene.service.bear("gateway")
    until(lambda: _is_up(scene))
    assert f"remove {CELL_MARK}" in scene.client.get("/readyz").json()["checks"]["storage"]["detail"]
    (scene.service.pictures / CELL_MARK).unlink()
    until(lambda: scene.client.get("/readyz").status_code == 200)
    assert scene.ended(scene.send())["status"] == "succeeded", "the operator has decided to begin anew"


def test_the_gateway_dies_in_a_post(scene: Scene) -> None:
    """The connection breaks after the request was read; the client says it again to the next one."""
    headers = {"Idempotency-Key": "the same"}
    scene.service.signal("gateway", signal.SIGSTOP)
    body = b'{"prompt":"a circle"}'
    with socket.create_connection(("127.0.0.1", scene.service.port)) as raw:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{scene.service.port}\r\nIdempotency-Key: the same\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        scene.service.signal("gateway", signal.SIGCONT)
        time.sleep(0.002)
        os.kill(scene.service.pids["gateway"], signal.SIGKILL)
    scene.gone(scene.service.pids["gateway"])
    scene.service.bear("gateway")
    until(lambda: _is_up(scene))
    first, second = (scene.client.post("/v1/jobs", json={"prompt": "a circle"}, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    assert [job["id"] for job in scene.client.get("/v1/jobs").json()["data"]] == [first.json()["id"]]


def _is_up(scene: Scene) -> bool:
    try:
        return scene.client.get("/readyz").json()["checks"]["redis"]["ok"] is True
    except httpx2.TransportError:
        return False
