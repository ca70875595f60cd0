"""What callers are told that they used is what the worker has done: the sums of all callers equal its own counters."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.ports import free_port
from tests.system.conftest import Installation, drawn, ended
from tests.waiting import WAIT_SECONDS, until

KEYS = {name: f"Bearer {letter * 32}" for name, letter in (("ann", "a"), ("bob", "b"), ("cat", "c"))}
PLAIN = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 7}
COUNTERS = {"evaluations": 0.0, "rows": 0.0, "device_seconds": 0.02, "stored_bytes": 0.0}
"""Of callers and workers alike, and how far apart they may be, of their size."""


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Installation]:
    """A service of three callers, whose worker's counters can be read at `metrics`."""
    keys = ",".join(f"{name}:{key.split()[1]}" for name, key in KEYS.items())
    installation = Installation(
        tmp_path_factory.mktemp("metered") / "data",
        environment=shared_machine | {"DARKROOM_API_KEYS": keys, "DARKROOM_WORKER_METRICS_PORT": str(free_port())},
    )
    installation.start_and_wait()
    yield installation
    installation.kill_everything()


def of_the_worker(installation: Installation) -> dict[str, float]:
    url = f"http://127.0.0.1:{installation.environment['DARKROOM_WORKER_METRICS_PORT']}/metrics"
    text = httpx2.get(url, trust_env=False, timeout=WAIT_SECONDS).raise_for_status().text
    samples = {sample.name: sample.value for each in text_string_to_metric_families(text) for sample in each.samples}
    return {name: samples[f"darkroom_{name}_total"] for name in COUNTERS}


def used(client: httpx2.Client, name: str) -> dict[str, Any]:
    answer = client.get("/v1/usage", headers={"Authorization": KEYS[name]}).raise_for_status().json()
    assert {day["tenant"] for day in answer["data"]} == {name}
    total: dict[str, Any] = answer["total"]
    return total


def call_off_in_the_middle(client: httpx2.Client, key: str) -> list[dict[str, Any]]:
    """Until one has begun and is called off: the last of these. The others had ended before the word came."""
    headers = {"Authorization": key}
    body = PLAIN | {"num_inference_steps": 50, "num_images": 2}
    jobs: list[dict[str, Any]] = []
    while not jobs or jobs[-1]["status"] != "canceled":
        job = client.post("/v1/jobs", json=body, headers=headers).raise_for_status().json()
        address = f"/v1/jobs/{job['id']}"
        until(lambda address=address: client.get(address, headers=headers).json()["progress"]["step"] > 1)  # type: ignore[misc]
        client.post(f"{address}/cancel", headers=headers)
        jobs.append(ended(client, job, **headers))
    return jobs


def test_the_sums_of_all_callers_are_the_workers_own(metered: Installation) -> None:
    """Together in its batches: with guidance and without, several pictures of which some are given up, one that is
    called off, and questions."""
    before = of_the_worker(metered)
    best = PLAIN | {"best_of": 4, "num_images": 2, "expect": ["a red circle"], "num_inference_steps": 5}
    asked = {"images": [], "texts": ["a frog", "a panda"]}
    with metered.client() as client, ThreadPoolExecutor(8) as pool:
        drawings = [
            (name, pool.submit(drawn, client, body, Authorization=KEYS[name]))
            for name, body in (
                ("ann", PLAIN | {"num_images": 2}),
                ("ann", PLAIN | {"guidance_scale": 1.0}),
                ("bob", PLAIN | {"scheduler": "heun", "width": 64, "height": 64}),
                ("bob", best),
                ("cat", PLAIN | {"guidance_scale": 1.0, "trajectory": {"every": 1}}),
            )
        ]
        called_off = pool.submit(call_off_in_the_middle, client, KEYS["cat"])
        jobs = [(name, each.result()) for name, each in drawings]
        assert [job["status"] for _, job in jobs] == ["succeeded"] * len(jobs)
        begun = called_off.result()
        assert {job["status"] for job in begun[:-1]} <= {"succeeded"}
        asked["images"] = [{"job": jobs[0][1]["id"], "index": 0}]
        client.post("/v1/score", json=asked, headers={"Authorization": KEYS["ann"]}).raise_for_status()
        body = {"input": ["a frog"], "model": "starter-scorer"}
        client.post("/v1/embeddings", json=body, headers={"Authorization": KEYS["bob"]}).raise_for_status()
        told = {name: used(client, name) for name in KEYS}
        lines = client.get("/v1/usage?format=csv", headers={"Authorization": KEYS["ann"]}).text
    worked = of_the_worker(metered)
    for name, apart in COUNTERS.items():
        mine = sum(total[name] for total in told.values())
        assert mine > 0
        assert mine == pytest.approx(worked[name] - before[name], rel=apart, abs=0), name
    ends = {name: tuple(total[each] for each in ("jobs", "canceled", "pictures")) for name, total in told.items()}
    assert ends == {"ann": (3, 0, 3), "bob": (3, 0, 3), "cat": (1 + len(begun), 1, 1 + 2 * (len(begun) - 1))}
    assert told["ann"]["evaluations"] == 2 * 4 + 4
    assert told["ann"]["rows"] == 2 * (2 * 4) + 4, "one of its pictures has no guidance"
    assert told["bob"]["evaluations"] > 2 * 5 + 4, "also those of pictures that were given up"
    stored = sum(image["bytes"] for job_of, job in jobs if job_of == "ann" for image in job["images"])
    assert told["ann"]["stored_bytes"] == stored
    assert all(total["device_seconds"] > 0 for total in told.values())
    days = list(csv.DictReader(io.StringIO(lines)))
    assert sum(int(day["rows"]) for day in days) == told["ann"]["rows"]
