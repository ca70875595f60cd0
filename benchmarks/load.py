"""How much traffic the gateway takes, beside a bare FastAPI with the same server and Redis, in turns.

`python -m benchmarks.load [--seconds 5] [--pairs 5] [--soak 60] [--only accepts,polls]` prints a markdown table.
Nothing is drawn: jobs wait, or a worker without an engine ends them. Figures, never gates: on a busy machine only the
ratios mean something. Servers, load and Valkey share the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import load_cases as cases
from benchmarks.load_client import Tally, quantile
from benchmarks.load_servers import Server, server
from benchmarks.load_streams import streams
from benchmarks.load_worker import clockwork
from benchmarks.report import Column, Report, add_option

RETENTION_SECONDS = 10
SOAK_CAPACITY = 160
"""Jobs a second of the worker in the soak: a seat is always free, so a claim waits for nothing but the claiming."""

TRAFFIC = {
    "case": Column(label="case"),
    "what": Column(label=""),
    "bare": Column(label="bare FastAPI"),
    "ours": Column(label="Darkroom"),
    "ratio": Column(label="ratio", format=".2f"),
    "lowest": Column(label="lowest", format=".2f"),
    "highest": Column(label="highest", format=".2f"),
    "target": Column(label="wanted"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. With a rival, `ratio` is above 1 where ours is better, whichever way better is."""

    what: str
    ours: float | str
    bare: float | None = None
    ratio: float | None = None
    lowest: float | None = None
    highest: float | None = None
    target: str = ""


def compared(what: str, bare: list[float], ours: list[float], *, more_is_better: bool = False, target: str = "") -> Row:
    """Medians, and the median of the ratios pair by pair, with the lowest and the highest."""
    ratios = sorted(b / a if more_is_better else a / b for a, b in zip(bare, ours, strict=True))
    medians = (_rounded(statistics.median(each)) for each in (ours, bare))
    return Row(what, *medians, statistics.median(ratios), ratios[0], ratios[-1], target)


def _rounded(value: float) -> float:
    """To what may be said of it."""
    return round(value) if value >= 100 else float(f"{value:.3g}")


@dataclass(frozen=True, slots=True)
class Bench:
    """What `main` was asked for."""

    folder: Path
    seconds: float
    pairs: int
    streams: int
    soak: float

    def accepts(self) -> list[Row]:
        cpu_ms: dict[str, list[float]] = {"skeleton": [], "gateway": []}

        def measure(each: Server) -> Tally:
            before = each.cpu_seconds()
            tally = uvloop.run(cases.accepts(each, seconds=self.seconds))
            cpu_ms[each.kind].append((each.cpu_seconds() - before) * 1000 / tally.count(202))
            return tally

        found = self._in_turns(measure)
        rates = ([tally.count(202) / self.seconds for tally in each] for each in found)
        what = f"jobs accepted a second, {cases.CONNECTIONS} connections"
        return [
            compared(what, *rates, more_is_better=True, target="≥ 0.40"),
            compared("the same, p99 of an answer, ms", *self._p99(found, 202)),
            compared("the same, processor time of servers and Redis for a job, ms", *cpu_ms.values()),
        ]

    def polls(self) -> list[Row]:
        found = self._in_turns(lambda each: uvloop.run(cases.polls(each, seconds=self.seconds)))
        what = f"status poll at {cases.POLLS} polls/s + {cases.ACCEPTS} accepts/s"
        medians = ([tally.quantile(0.5, 200) for tally in each] for each in found)
        return [
            compared(f"{what}, median, ms", *medians),
            compared(f"{what}, p99, ms", *self._p99(found, 200), target="≥ 0.40"),
        ]

    def streams_(self) -> list[Row]:
        rows = []
        for pace, name in ((250.0, "at 250 events a second"), (1e9, "all told as fast as one worker can")):
            with server("gateway", self.folder / f"streams-{pace:g}") as ours:
                found = uvloop.run(streams(ours, count=self.streams, events_a_second=pace))
            late = _rounded(quantile(found.late_ms, 0.99))
            rows.append(Row(f"from event to its reader, p99, ms, {self.streams} streams, {name}", late, target="≤ 150"))
        memory = Row(f"memory of one of {self.streams} event streams, KB", _rounded(found.kilobytes), target="≤ 40")
        return [memory, *rows]

    def overload(self) -> list[Row]:
        job_seconds = cases.job_seconds(cases.CAPACITY)
        with (
            server("gateway", self.folder / "overload", queue_limit=str(cases.QUEUE_LIMIT)) as ours,
            clockwork(ours.redis_url, job_seconds=job_seconds),
        ):
            found = uvloop.run(cases.overload(ours, seconds=2 * self.seconds))
        what = f"{cases.TIMES} x {cases.CAPACITY} jobs/s offered to a worker that does {cases.CAPACITY}"
        refused = found.offered.count(429, 503)
        return [
            Row(f"{what}: refused with 429", f"{refused} of {refused + found.offered.count(202)}"),
            Row("p99 of a refusal, ms", _rounded(found.offered.quantile(0.99, 429, 503)), target="≤ 100"),
            Row("last refusal after the overload, s", _rounded(found.recovered), target="≤ 5"),
        ]

    def soak_(self) -> list[Row]:
        hours = str(RETENTION_SECONDS / 3_600)
        job_seconds = cases.job_seconds(SOAK_CAPACITY)
        with (
            server("gateway", self.folder / "soak", retention_hours=hours) as ours,
            clockwork(ours.redis_url, job_seconds=job_seconds),
        ):
            found = uvloop.run(cases.soak(ours, seconds=self.soak))
        what = f"{self.soak:g} s of {cases.ACCEPTS} jobs/s"
        (files, files_after), (mb, mb_after) = found.descriptors, found.redis_mb
        return [
            Row(f"{what}: accepted to claimed, p99, ms", _rounded(quantile(found.claimed_ms, 0.99)), target="≤ 50"),
            Row(
                "the same, growth of the gateway's memory, MB per 10 min", _rounded(found.memory_slope()), target="≤ 1"
            ),
            Row("the same, open files before and after", f"{files}, {files_after}", target="equal"),
            Row("the same, Redis before and after, MB", f"{mb:.1f}, {mb_after:.1f}", target="equal"),
            Row("the same, keys of jobs left in Redis", found.keys, target="0"),
        ]

    def _in_turns(self, measure: Callable[[Server], Tally]) -> tuple[list[Tally], list[Tally]]:
        """Of the rival and of ours, A B A B, both waiting all the time."""
        name = f"turns-{len(list(self.folder.iterdir()))}"
        with (
            server("skeleton", self.folder / name / "bare") as bare,
            server("gateway", self.folder / name / "ours") as ours,
        ):
            pairs = [(measure(bare), measure(ours)) for _ in range(self.pairs)]
        return [a for a, _ in pairs], [b for _, b in pairs]

    @staticmethod
    def _p99(found: tuple[list[Tally], list[Tally]], status: int) -> tuple[list[float], list[float]]:
        bare, ours = ([tally.quantile(0.99, status) for tally in each] for each in found)
        return bare, ours


def main() -> None:
    parser = argparse.ArgumentParser(description="The gateway's traffic beside a bare FastAPI's")
    parser.add_argument("--seconds", type=float, default=5, help="of one measure")
    parser.add_argument("--pairs", type=int, default=5, help="measures of each, in turns")
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--soak", type=float, default=60, help="seconds")
    parser.add_argument("--only", default="accepts,polls,streams,overload,soak", help="names with commas")
    add_option(parser)
    options = parser.parse_args()
    report = Report("load", options.json)
    report.note(
        f"{os.cpu_count()} cores for servers, load and Valkey together; two processes each; AOF everysec; "
        f"{options.pairs} pairs of {options.seconds:g} s. The ratio is above 1 where Darkroom is better."
    )
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.seconds, options.pairs, options.streams, options.soak)
        parts = {
            "accepts": bench.accepts, "polls": bench.polls, "streams": bench.streams_, "overload": bench.overload,
            "soak": bench.soak_,
        }  # fmt: skip
        for part in options.only.split(","):
            for row in parts[part]():
                report.add("traffic", TRAFFIC, case=part, **dataclasses.asdict(row))


if __name__ == "__main__":
    main()
