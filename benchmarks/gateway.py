"""What the gateway costs before it does anything: import time and memory, beside a bare FastAPI application.

`python -m benchmarks.gateway` prints a Markdown table. Fresh interpreters in turn, A B A B …, medians.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
from importlib.metadata import version

ROUNDS = 9

GATEWAY = "from app.main import create_app; from app.settings import Settings; create_app(Settings())"
SKELETON = "import uvicorn; from fastapi import FastAPI; import redis.asyncio; FastAPI()"
MEASURE = """
import resource, time
started = time.perf_counter()
{code}
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(code: str) -> tuple[float, float]:
    """Seconds from a started interpreter to an application, and its peak resident memory in MB."""
    done = subprocess.run([sys.executable, "-c", MEASURE.format(code=code)], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()
    return float(seconds), float(kilobytes) / 1024


def main() -> None:
    results: dict[str, list[tuple[float, float]]] = {"gateway": [], "bare FastAPI with redis and uvicorn": []}
    for _ in range(ROUNDS):
        for name, code in zip(results, (GATEWAY, SKELETON), strict=True):
            results[name].append(measure(code))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("fastapi", "redis", "rq", "pydantic")))
    print("\n| | import to application, s | peak memory, MB |\n|---|---|---|")
    for name, runs in results.items():
        seconds, megabytes = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {name} | {seconds:.2f} | {megabytes:.0f} |")
    pairs = zip(*results.values(), strict=True)
    ratios = [(a[0] / b[0], a[1] / b[1]) for a, b in pairs]
    seconds, megabytes = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"| ratio, pair by pair | {seconds:.2f} | {megabytes:.2f} |")


if __name__ == "__main__":
    main()
