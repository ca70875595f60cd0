"""What a seat costs in memory: `python -m benchmarks.memory`.

A figure, never a gate. Prints markdown: how much memory the worker of `darkroom up` takes at so many seats, once it is
ready and while each seat draws a picture; and what the stock pipeline takes in a fresh process that draws as many
pictures in one call. Resident memory, as `ps` shows it: of a process alone, libraries included. Linux only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.one_machine import Service, one_machine
from benchmarks.report import Column, Report, add_option

SEATS = {
    "seats": Column(label="seats"),
    "ready_mb": Column(label="worker, ready, MB", format=".0f"),
    "peak_mb": Column(label="worker, all seats drew, at most, MB", format=".0f"),
    "stock_mb": Column(label="stock pipeline, as many in one call, at most, MB", format=".0f"),
}

PROMPT = "a red circle on a blue background"

STOCK = """
import sys, torch
from pathlib import Path
from worker.models.bundle import load, stock_pipeline
pictures, steps = int(sys.argv[1]), int(sys.argv[2])
pipeline = stock_pipeline(load(Path("models/starter"), device="cpu"), "dpmpp_2m")
pipeline([sys.argv[3]] * pictures, num_inference_steps=steps, output_type="np")
print(Path("/proc/self/status").read_text())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seats", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20)
    add_option(parser)
    options = parser.parse_args()
    report = Report("memory", options.json)
    for seats in options.seats:
        with tempfile.TemporaryDirectory() as folder, one_machine(Path(folder) / "data", seats=str(seats)) as service:
            ready, peak = worker_mb(service, seats, options.steps)
        stock = stock_mb(seats, options.steps)
        report.add("seats", SEATS, seats=seats, ready_mb=ready, peak_mb=peak, stock_mb=stock)


def worker_mb(service: Service, seats: int, steps: int) -> tuple[float, float]:
    """The worker's memory before it draws, and the most it ever had, once each seat has drawn a picture. In MB."""
    worker = service.worker()
    ready = worker.memory_info().rss / 1e6
    with service.client() as client:
        wanted = {"prompt": PROMPT, "num_inference_steps": steps}
        jobs = [client.post("/v1/jobs", json=wanted).raise_for_status().json()["id"] for _ in range(seats)]
        for job in jobs:
            _wait(client, job)
    return ready, _peak_mb(Path(f"/proc/{worker.pid}/status").read_text())


def stock_mb(pictures: int, steps: int) -> float:
    """The most memory of a fresh process in which the stock pipeline draws so many pictures in one call. In MB."""
    command = [sys.executable, "-c", STOCK, str(pictures), str(steps), PROMPT]
    return _peak_mb(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _wait(client: Any, job: str) -> None:
    while (found := client.get(f"/v1/jobs/{job}", params={"wait": 30}).json())["ended_at"] is None:
        pass
    if found["status"] != "succeeded":
        raise RuntimeError(f"{job} {found['status']}: {found['error']}")


def _peak_mb(status: str) -> float:
    """Of a process' /proc/PID/status."""
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
