"""`make scale`: a thousand workers and ten thousand callers against one Redis, this version and an older one.

Prints tables, and with --json writes them. docs/scaling.md reads them. `--quick` takes seconds, and its figures say
that the benchmark works, not how fast anything is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Column, Report, add_option
from benchmarks.scale.versions import NoSuchVersion, Player, lay_out, named

OLDER = "b815438"
"""The last commit whose idle workers asked forty times a second."""

NOW = "this version"
Settings = dict[str, int | float]
FULL: Settings = {
    "workers": 1_000,
    "callers": 10_000,
    "real": 6,
    "herd": 200,
    "seconds": 8.0,
    "rate": 20.0,
    "rounds": 3,
}
QUICK: Settings = {"workers": 12, "callers": 40, "real": 2, "herd": 6, "seconds": 0.5, "rate": 20.0, "rounds": 2}
"""`real` of the workers run as they are run, in real time; all others are entries in Redis."""

GPU_SECONDS = (0.5, 2.0, 10.0)
BUDGET = 0.5
"""Of Redis' core: the rest is for bursts, for the file that is written anew, and for a day that is not like others."""

Found = dict[str, list[dict[str, Any]]]
"""What a version found, by part: once for each time that it was played."""

FLOWS = ["few_steps", "many_steps", "watched"]
REPEATED = ["idle", *FLOWS]
HERD, CROWD = "herd", "crowd"
PARTS = [*REPEATED, HERD, CROWD]
"""Of run.py."""

MOST_ASKS = 5.0
"""Script calls a second of an idle worker, above which no herd is run: this process could not ask so often."""

_VERSION = {"version": Column(label="version")}
TABLES: dict[str, dict[str, Column]] = {
    "flow": _VERSION | {
        "workers": Column(label="workers that listen"),
        "steps": Column(label="steps"),
        "watched": Column(label="watched"),
        "jobs": Column(label="jobs"),
        "per_second": Column(label="jobs/s", format=".1f"),
        "redis_ms": Column(label="Redis, ms per job", format=".2f"),
        "scripts": Column(label="script calls per job", format=".1f"),
        "share": Column(label="cores in use, at rest included", format=".3f"),
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
    "cells": _VERSION | {
        "gpu_seconds": Column(label="GPU-seconds a picture"),
        "per_second": Column(label="pictures/s of a cell", format=",.0f"),
        "gpus": Column(label="GPUs of a cell", format=",.0f"),
        "thousand": Column(label="cells for 1,000/s", format=",d"),
        "ten_thousand": Column(label="for 10,000/s", format=",d"),
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
    words = [word for name, value in settings.items() if name != "rounds" for word in (f"--{name}", str(value))]
    try:
        versions = {NOW: None} if options.alone else {named(options.rev): options.rev, NOW: None}
    except NoSuchVersion as error:
        sys.exit(f"{error}; name another with --rev, or take this version --alone")
    report = Report("scale", options.json)
    with ExitStack() as stack:
        players = {name: stack.enter_context(_player(revision, words)) for name, revision in versions.items()}
        found = _play(players, rounds=int(settings["rounds"]))
    for table in (_flow, _idle, _cells, _states, _memory, _fairness, _reaper):
        for name, parts in found.items():
            table(report, name, parts, settings)


def _play(players: dict[str, Player], *, rounds: int) -> dict[str, Found]:
    """Part by part, one version after the other, some parts several times: whatever else the machine does, both have
    their share of it."""
    found: dict[str, Found] = {name: {part: [] for part in PARTS} for name in players}
    for part in [*REPEATED * rounds, HERD, CROWD]:
        for name, player in players.items():
            if part != HERD or _asks(found[name]) < MOST_ASKS:
                found[name][part].append(player.play(part))
    return found


@contextmanager
def _player(revision: str | None, words: list[str]) -> Iterator[Player]:
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        player = Player(lay_out(revision, Path(folder)), *words)
        try:
            yield player
        finally:
            player.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--rev", default=OLDER, help="the older version, a revision of this repository (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="no older version")
    parser.add_argument("--quick", action="store_true", help="a dozen workers, in seconds")
    add_option(parser)
    return parser.parse_args()


def _at_rest(found: Found) -> float:
    """What a worker asks while there is nothing to do, in seconds of Redis a second."""
    return median(each["seconds"] / each["wall_seconds"] / each["workers"] for each in found["idle"])


def _asks(found: Found) -> float:
    """Script calls a second of one of them."""
    return median(each["scripts"] / each["wall_seconds"] / each["workers"] for each in found["idle"])


def _of_a_job(found: Found, part: str) -> float:
    """Seconds of Redis of a job: what was spent beyond what the workers would have asked for without one."""
    rest = _at_rest(found)
    own = median(
        (each["seconds"] - rest * each["workers"] * each["wall_seconds"]) / each["jobs"] for each in found[part]
    )
    # In a run of seconds, chance can make it nothing.
    return max(1e-6, own)


def _flow(report: Report, version: str, found: Found, settings: Settings) -> None:
    asks = _asks(found)
    for part in (part for part in (*FLOWS, HERD) if found[part]):
        # Of a herd's jobs nothing can be told apart from its rest: how many cores it takes says whether they cost it.
        ran, spent = found[part], None if part == HERD else _of_a_job(found, part)
        own = [each["scripts"] - asks * each["workers"] * each["wall_seconds"] for each in ran]
        waited = sorted(ms for each in ran for ms in each["waited_ms"])
        report.add(
            "flow", TABLES["flow"], version=version, **{name: ran[0][name] for name in ("workers", "steps", "watched")},
            jobs=sum(each["jobs"] for each in ran),
            per_second=median(each["jobs"] / each["wall_seconds"] for each in ran),
            redis_ms=spent and 1000 * spent, fills=spent and 1 / spent,
            scripts=spent and median(scripts / each["jobs"] for scripts, each in zip(own, ran, strict=True)),
            share=median(each["seconds"] / each["wall_seconds"] for each in ran),
            p50_ms=waited[len(waited) // 2], p99_ms=waited[len(waited) * 99 // 100],
        )  # fmt: skip


def _idle(report: Report, version: str, found: Found, settings: Settings) -> None:
    each_ms = 1000 * _at_rest(found)
    report.add(
        "idle", TABLES["idle"], version=version, workers=settings["real"], registered=settings["workers"],
        asks=_asks(found), redis_ms=each_ms, thousand=each_ms,
    )  # fmt: skip


def _cells(report: Report, version: str, found: Found, settings: Settings) -> None:
    """As BUDGET allows, if every picture is a job of twenty steps that somebody watches, and no GPU rests."""
    job, worker = _of_a_job(found, "watched"), _at_rest(found)
    for gpu_seconds in GPU_SECONDS:
        rate = BUDGET / (job + gpu_seconds * worker)
        report.add(
            "cells", TABLES["cells"], version=version, gpu_seconds=gpu_seconds, per_second=rate,
            gpus=rate * gpu_seconds, thousand=ceil(1_000 / rate), ten_thousand=ceil(10_000 / rate),
        )  # fmt: skip


def _states(report: Report, version: str, found: Found, settings: Settings) -> None:
    for name, state in found[CROWD][0]["states"].items():
        report.add(
            "states", TABLES["states"], version=version, state=name, calls=state["scripts"],
            redis_us=1e6 * state["seconds"] / state["scripts"], longest_ms=state["longest_ms"],
        )  # fmt: skip


def _memory(report: Report, version: str, found: Found, settings: Settings) -> None:
    crowd = found[CROWD][0]
    report.add("memory", TABLES["memory"], version=version, jobs=crowd["jobs"], **crowd["bytes_per_job"])


def _fairness(report: Report, version: str, found: Found, settings: Settings) -> None:
    for order, name in (("as claimed", "fair"), ("first come, first served", "first_come")):
        report.add("fairness", TABLES["fairness"], version=version, order=order, **found[CROWD][0][name])


def _reaper(report: Report, version: str, found: Found, settings: Settings) -> None:
    crowd = found[CROWD][0]
    spent = crowd["states"]["reap"]
    report.add(
        "reaper", TABLES["reaper"], version=version, workers=settings["workers"], jobs=crowd["reaped"],
        rounds=crowd["rounds"], redis_s=spent["seconds"], longest_ms=spent["longest_ms"],
        queued_after_s=crowd["requeued_after_seconds"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
