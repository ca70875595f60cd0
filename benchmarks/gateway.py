"""What the gateway costs before it does anything: import time and memory, beside a bare FastAPI application.

`python -m benchmarks.gateway` prints a Markdown table. Fresh interpreters in turn, A B A B …, medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from benchmarks.report import Column, Report, add_option

GATEWAY = "from app.main import create_app; from app.settings import Settings; create_app(Settings())"
SKELETON = "import uvicorn; from fastapi import FastAPI; import redis.asyncio; FastAPI()"
MEASURE = """
import resource, time
started = time.perf_counter()
{code}
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


START = {
    "what": Column(label=""),
    "seconds": Column(label="import to application, s", format=".2f"),
    "megabytes": Column(label="peak memory, MB", format=".3g"),
}


def measure(code: str) -> tuple[float, float]:
    """Seconds from a started interpreter to an application, and its peak resident memory in MB."""
    done = subprocess.run([sys.executable, "-c", MEASURE.format(code=code)], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()
    return float(seconds), float(kilobytes) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    add_option(parser)
    options = parser.parse_args()
    report = Report("gateway", options.json)
    pairs = [(measure(GATEWAY), measure(SKELETON)) for _ in range(options.rounds)]
    ours, bare = zip(*pairs, strict=True)
    ratios = [(a[0] / b[0], a[1] / b[1]) for a, b in pairs]
    rows = {"gateway": ours, "bare FastAPI with redis and uvicorn": bare, "ratio, pair by pair": ratios}
    for what, runs in rows.items():
        seconds, megabytes = (statistics.median(column) for column in zip(*runs, strict=True))
        report.add("start", START, what=what, seconds=seconds, megabytes=megabytes)


if __name__ == "__main__":
    main()
