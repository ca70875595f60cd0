"""How long a job waits after its worker was killed on one machine: `python -m benchmarks.reclaim --kills 5`.

Starts `darkroom up` in a folder of its own, kills the worker in the middle of a job, and reads from Redis, by its
clock, when the job was queued again, when the next worker was heard of, and when it took the job up.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import redis

from app.cli.embedded import EmbeddedValkey
from app.contract.redis import keys

LONG = {"prompt": "a red circle", "num_inference_steps": 100, "num_images": 4}
PAUSE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        data, kills = Path(folder) / "data", parser.parse_args().kills
        command = [Path(sys.executable).with_name("darkroom"), "up", "--data", data, "--port", str(port)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM", "REDIS"))}
        with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as up:
            assert up.stdout is not None
            up.stdout.readline()
            try:
                show([one_kill(data, port) for _ in range(kills)])
            finally:
                up.send_signal(signal.SIGTERM)


def one_kill(data: Path, port: int) -> dict[str, float]:
    """Seconds from the kill to each of the three moments."""
    url = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=url, trust_env=False) as http, _valkey(data) as client:
        job = http.post("/v1/jobs", json=LONG).json()["id"]
        _until(lambda: http.get(f"/v1/jobs/{job}").json()["progress"]["step"] > 2)
        record: Any = client.hgetall(keys.JOB + job)
        killed_at = _now(client)
        os.kill(_pid_of_worker(data), signal.SIGKILL)
        heard_of = _until(lambda: _other_worker(client, record["model"], record["worker"]))
        started = _until(lambda: len(found := _moments(client, job, "job.started")) > 1 and found[1])
        queued = _moments(client, job, "job.restarted")[0]
        http.post(f"/v1/jobs/{job}/cancel")
        _until(lambda: http.get(f"/v1/jobs/{job}").json()["ended_at"])
    moments = {"queued again": queued, "next worker ready": heard_of, "taken up": started}
    return {name: (moment - killed_at) / 1000 for name, moment in moments.items()}


def show(rows: list[dict[str, float]]) -> None:
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name}: median {statistics.median(values):.2f} s, longest {max(values):.2f} s after the kill")
    waits = [row["taken up"] - row["next worker ready"] for row in rows]
    print(
        f"taken up after the next worker was ready: median {statistics.median(waits):.2f} s, longest {max(waits):.2f} s"
    )


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


def _pid_of_worker(data: Path) -> int:
    for entry in Path("/proc").iterdir():
        try:
            line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if line.endswith(b"darkroom\0worker\0") and str(data).encode() in environment:
            return int(entry.name)
    raise RuntimeError("no worker runs")


def _until(true: Callable[[], Any]) -> Any:
    while not (value := true()):
        time.sleep(PAUSE)
    return value


if __name__ == "__main__":
    main()
