"""The life of a job as a client sees it, over a real server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from app.contract.redis import keys
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.waiting import WAIT_SECONDS, until

PARAMETERS = {"prompt": "a red circle", "seed": 0}


def send(client: httpx2.Client, parameters: dict[str, Any] = PARAMETERS, **options: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=parameters, **options)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_the_whole_road(client: httpx2.Client, worker: ScriptedWorker) -> None:
    answer = client.post("/v1/jobs", json={**PARAMETERS, "num_images": 2, "metadata": {"order": "17"}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (job["object"], job["status"], job["model"], job["attempts"]) == ("job", "queued", "starter", 0)
    assert job["input"]["seed"] == 0
    assert job["input"]["num_inference_steps"] == 20
    assert job["queue"] == {"position": 0, "workers": 1, "eta_seconds": None}
    assert job["metadata"] == {"order": "17"}

    claim = worker.claim()
    worker.progress(claim, 5)
    running = client.get(job["urls"]["self"])
    assert running.json()["status"] == "running"
    assert running.json()["progress"] == {"step": 5, "steps": 20, "images_done": 0, "stage": None}
    assert "retry-after" in running.headers

    worker.succeed(claim)
    answer = client.get(job["urls"]["self"])
    done = answer.json()
    assert (done["status"], done["warnings"], done["progress"]["images_done"]) == ("succeeded", ["cut"], 2)
    assert [image["seed"] for image in done["images"]] == [0, 1]
    assert done["timings"]["total"] >= done["timings"]["queued"] >= 0
    assert done["created_at"] <= done["started_at"] <= done["ended_at"] < done["expires_at"]
    assert done["ended_at"].endswith("Z")
    assert "retry-after" not in answer.headers


def test_a_drawn_seed_is_reported(client: httpx2.Client) -> None:
    seeds = {send(client, {"prompt": "a red circle"})["input"]["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_a_failed_job_says_why(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    worker.fail(worker.claim())
    error = client.get(job["urls"]["self"]).json()["error"]
    assert error == {
        "type": "/problems/numerical-error",
        "title": "The picture became not a number",
        "detail": "Values overflowed.",
    }
    assert client.get(error["type"]).status_code == 200


def test_prefer_wait_answers_with_the_finished_job(client: httpx2.Client, worker: ScriptedWorker) -> None:
    other = threading.Thread(target=lambda: worker.succeed(worker.claim()))
    other.start()
    answer = client.post("/v1/jobs", json=PARAMETERS, headers={"Prefer": "respond-async, wait=30"})
    other.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=30"


def test_prefer_wait_that_ends_too_early_is_202(client: httpx2.Client) -> None:
    answer = client.post("/v1/jobs", json=PARAMETERS, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=0", "wait=-5", "wait=1.5", "wait=x", "wait", "handling=lenient"])
def test_preferences_not_understood_are_ignored(client: httpx2.Client, prefer: str) -> None:
    answer = client.post("/v1/jobs", json=PARAMETERS, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


def test_closing_answers_waits_at_once(closable: Running) -> None:
    client, running = closable.client, closable
    job = send(client)
    with ThreadPoolExecutor() as pool:
        waits = [
            pool.submit(client.post, "/v1/jobs", json=PARAMETERS, headers={"Prefer": "wait=60"}),
            pool.submit(client.get, job["urls"]["self"], params={"wait": 60}),
        ]
        until(lambda: running.app.state.services.feed.listeners == 2)
        running.close_soon()
        assert [wait.result(WAIT_SECONDS).status_code for wait in waits] == [202, 200]


def test_a_departed_client_frees_what_it_held(running: Running, client: httpx2.Client) -> None:
    job = send(client)
    feed = running.app.state.services.feed
    hasty = httpx2.Client(base_url=running.url, timeout=0.5, trust_env=False)
    with hasty, pytest.raises(httpx2.ReadTimeout):
        hasty.get(job["urls"]["self"], params={"wait": 60})
    until(lambda: feed.listeners == 0)
    assert client.get(job["urls"]["self"]).json()["status"] == "queued"


def test_etag_and_304(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    for given in (etag, f'"other", {etag}', "*", etag.removeprefix("W/")):
        same = client.get(job["urls"]["self"], headers={"If-None-Match": given})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    worker.claim()
    changed = client.get(job["urls"]["self"], headers={"If-None-Match": etag})
    assert (changed.status_code, changed.headers["etag"] == etag) == (200, False)


def test_long_poll_sees_the_next_change(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(client.get, job["urls"]["self"], params={"wait": 30}, headers={"If-None-Match": etag})
        claim = worker.claim()
        assert poll.result(WAIT_SECONDS).json()["status"] == "running"
        poll = pool.submit(client.get, job["urls"]["self"], params={"wait": 30})
        # Without an ETag the poll waits for whatever comes after it began: progress goes on until it has.
        step = cycle(range(1, 20))
        until(lambda: worker.progress(claim, next(step)) or poll.done())
        assert poll.result(WAIT_SECONDS).json()["progress"]["step"] >= 1


def test_long_poll_answers_at_once_when_its_etag_is_old(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    worker.claim()
    answer = client.get(job["urls"]["self"], params={"wait": 60}, headers={"If-None-Match": etag})
    assert answer.json()["status"] == "running"


def test_long_poll_without_change_is_304_in_time(client: httpx2.Client) -> None:
    job = send(client)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    answer = client.get(job["urls"]["self"], params={"wait": 1}, headers={"If-None-Match": etag})
    assert answer.status_code == 304


def test_the_list_is_walked_by_cursor_without_gap_or_repeat(client: httpx2.Client) -> None:
    sent = [send(client)["id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(sent)
    created = [client.get(f"/v1/jobs/{job_id}").json()["created_at"] for job_id in seen]
    assert created == sorted(created, reverse=True)


def test_the_list_by_status(client: httpx2.Client, worker: ScriptedWorker) -> None:
    first, second = send(client)["id"], send(client)["id"]
    worker.succeed(worker.claim())
    by_status = {
        status: [job["id"] for job in client.get("/v1/jobs", params={"status": status}).json()["data"]]
        for status in ("queued", "succeeded", "failed")
    }
    assert by_status == {"queued": [second], "succeeded": [first], "failed": []}


def test_cancel_while_queued_twice_and_after_the_end(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    for _ in range(2):
        answer = client.post(job["urls"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    over = send(client)
    worker.succeed(worker.claim())
    answer = client.post(over["urls"]["cancel"])
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/job-is-over")


def test_cancel_while_running_tells_the_worker(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    claim = worker.claim()
    assert client.post(job["urls"]["cancel"]).json()["status"] == "running"
    assert worker.ownership.beat([claim]) == ["cancel"]
    assert worker.ownership.canceled(claim)
    assert client.get(job["urls"]["self"]).json()["status"] == "canceled"


def test_delete_takes_pictures_and_record(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, picture_folder: Path
) -> None:
    job = send(client)
    worker.succeed(worker.claim())
    image = client.get(job["urls"]["self"]).json()["images"][0]["url"]
    assert client.get(image).status_code == 200
    answer = client.delete(job["urls"]["self"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(job["urls"]["self"]).status_code == 404
    assert client.get(image).status_code == 404
    assert not list(picture_folder.rglob("*.png"))
    assert not redis_client.keys(f"{keys.JOB}*")


def test_delete_of_a_running_job_cancels_it_first(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    claim = worker.claim()
    with ThreadPoolExecutor() as pool:
        deletion = pool.submit(client.delete, job["urls"]["self"])
        until(lambda: worker.ownership.beat([claim]) == ["cancel"])
        assert worker.ownership.canceled(claim)
        assert deletion.result(WAIT_SECONDS).status_code == 204


def test_delete_while_closing_does_not_pretend(closable: Running, worker: ScriptedWorker) -> None:
    client = closable.client
    job = send(client)
    worker.claim()
    closable.close_soon()
    answer = client.delete(job["urls"]["self"])
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/job-still-running")
    assert client.get(job["urls"]["self"]).status_code == 200


def test_a_hundred_equal_posts_with_one_key_are_one_job(client: httpx2.Client, redis_client: redis.Redis) -> None:
    headers = {"Idempotency-Key": "order 17, é".encode()}
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=PARAMETERS, headers=headers), range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert redis_client.zcard(f"{keys.QUEUED}starter") == 1
    assert not any(b"order 17" in name.encode() for name in redis_client.scan_iter())


def test_a_key_with_another_body_is_refused(client: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = send(client, headers=headers)
    same = client.post("/v1/jobs", json={"seed": 0, "num_images": 1, "prompt": "a red circle"}, headers=headers)
    assert (same.json()["id"], same.headers["idempotency-replayed"]) == (first["id"], "true")
    other = client.post("/v1/jobs", json={**PARAMETERS, "seed": 8}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


def test_a_key_whose_job_is_deleted_is_gone(client: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "k1"}
    assert client.delete(send(client, headers=headers)["urls"]["self"]).status_code == 204
    again = client.post("/v1/jobs", json=PARAMETERS, headers=headers)
    assert (again.status_code, again.json()["type"]) == (410, "/problems/job-deleted")


def test_full_queue(gateway_with: OneGateway, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    worker.announce()
    redis_client.hset(f"{keys.PACE}starter", "job_ms", 60_000)
    with gateway_with(queue_limit=2, tenant_limit=3) as running:
        for _ in range(2):
            send(running.client)
        full = running.client.post("/v1/jobs", json=PARAMETERS)
        assert (full.status_code, full.json()["type"]) == (429, "/problems/queue-full")
        # One job runs for a minute, and four of them run at a time.
        assert full.headers["retry-after"] == "15"
        worker.claim()
        send(running.client)
        worker.claim()
        many = running.client.post("/v1/jobs", json=PARAMETERS)
        assert (many.status_code, many.json()["type"]) == (429, "/problems/too-many-jobs")
        assert int(many.headers["retry-after"]) >= 1


def test_the_estimate_follows_the_measured_pace(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    redis_client.hset(f"{keys.PACE}starter", "job_ms", 8_000)
    jobs = [send(client) for _ in range(6)]
    places = [client.get(job["urls"]["self"]).json()["queue"] for job in jobs]
    assert [place["position"] for place in places] == list(range(6))
    assert [place["eta_seconds"] for place in places] == [8.0, 10.0, 12.0, 14.0, 16.0, 18.0]
    worker.progress(worker.claim(), 10)
    assert client.get(jobs[0]["urls"]["self"]).headers["retry-after"] == "4"


def test_no_model_yet(running: Running) -> None:
    answer = running.client.post("/v1/jobs", json=PARAMETERS)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-model-yet")
    assert answer.headers["retry-after"] == "5"


def test_no_space_for_pictures(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(storage_reserve_bytes=2**62) as running:
        answer = running.client.post("/v1/jobs", json=PARAMETERS)
        ready = running.client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/storage-full")
    assert "retry-after" in answer.headers
    assert "has to free some" in answer.json()["detail"]
    # What is there is still shown: a balancer must not leave the gateway.
    assert ready.status_code == 200
    assert "DARKROOM_STORAGE_RESERVE_BYTES" in ready.json()["checks"]["storage"]["detail"]


def test_redis_nearly_full(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    worker.announce()
    limit = int(redis_client.info("memory")["used_memory"] * 1.1)  # type: ignore[index]
    redis_client.config_set("maxmemory", limit)
    try:
        answer = running.client.post("/v1/jobs", json=PARAMETERS)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-storage-full")


def test_models_with_their_limits(client: httpx2.Client) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["state"], model["workers"]) == ("starter", "model", "ready", 1)
    assert (model["max_steps"], model["schedulers"][0], model["pace_seconds"]) == (100, "ddim", None)
