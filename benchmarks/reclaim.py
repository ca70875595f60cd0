"""How long a job waits after its worker was killed on one machine: `python -m benchmarks.reclaim --kills 5`.

Starts `darkroom up` in a folder of its own, kills the worker in the middle of a job, and reads from Redis, by its
clock, when the job was queued again, when the next worker was heard of, and when it took the job up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from app.cli.embedded import EmbeddedValkey
from app.contract.redis import keys
from benchmarks.one_machine import Service, one_machine
from benchmarks.report import Column, Report, add_option

LONG = {"prompt": "a red circle", "num_inference_steps": 100, "num_images": 4}
PAUSE = 0.02


WAITS = {
    "what": Column(label=""),
    "median": Column(label="median, s", format=".2f"),
    "longest": Column(label="longest, s", format=".2f"),
    "kills": Column(label="kills"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    add_option(parser)
    options = parser.parse_args()
    report = Report("reclaim", options.json)
    with tempfile.TemporaryDirectory() as folder, one_machine(Path(folder) / "data") as service:
        show([one_kill(service) for _ in range(options.kills)], report)


def one_kill(service: Service) -> dict[str, float]:
    """Seconds from the kill to each of the three moments."""
    with service.client() as http, _valkey(service.data) as client:
        job = http.post("/v1/jobs", json=LONG).json()["id"]
        _until(lambda: http.get(f"/v1/jobs/{job}").json()["progress"]["step"] > 2)
        record: Any = client.hgetall(keys.JOB + job)
        killed_at = _now(client)
        service.worker().kill()
        heard_of = _until(lambda: _other_worker(client, record["model"], record["worker"]))
        started = _until(lambda: len(found := _moments(client, job, "job.started")) > 1 and found[1])
        queued = _moments(client, job, "job.restarted")[0]
        http.post(f"/v1/jobs/{job}/cancel")
        _until(lambda: http.get(f"/v1/jobs/{job}").json()["ended_at"])
    moments = {"queued again": queued, "next worker ready": heard_of, "taken up": started}
    return {name: (moment - killed_at) / 1000 for name, moment in moments.items()}


def show(rows: list[dict[str, float]], report: Report) -> None:
    seconds = {f"{name}, after the kill": [row[name] for row in rows] for name in rows[0]}
    seconds["taken up, after the next worker was ready"] = [row["taken up"] - row["next worker ready"] for row in rows]
    for what, values in seconds.items():
        report.add("waits", WAITS, what=what, median=statistics.median(values), longest=max(values), kills=len(values))


def _valkey(data: Path) -> redis.Redis:
    return redis.Redis.from_url(EmbeddedValkey(data).url, decode_responses=True)


def _now(client: redis.Redis) -> float:
    seconds, micros = client.time()  # type: ignore[misc]
    return float(seconds * 1000 + micros / 1000)


def _moments(client: redis.Redis, job: str, event: str) -> list[float]:
    entries: Any = client.xrange(keys.EVENTS + job)
    return [float(entry_id.split("-")[0]) for entry_id, fields in entries if fields["event"] == event]


def _other_worker(client: redis.Redis, model: str, than: str) -> float | None:
    """When it was first heard of, as long as it is asked for more often than it beats."""
    found: Any = client.zrange(keys.ALIVE + model, 0, -1, withscores=True)
    return next((score for name, score in found if name != than), None)


def _until(true: Callable[[], Any]) -> Any:
    while not (value := true()):
        time.sleep(PAUSE)
    return value


if __name__ == "__main__":
    main()
