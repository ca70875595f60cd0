"""One version's process of a run: plays the parts whose names it reads, on a Valkey of its own, and answers each
with what was found, as a line of JSON.

Run by versions.py, with the code of that version in PYTHONPATH. Refuses to know of which.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from app.cli.embedded import EmbeddedValkey
from app.contract.common.logs import configure
from benchmarks.scale.crowd import Crowd
from benchmarks.scale.fairness import fairness
from benchmarks.scale.flow import Flow, flow, idle
from benchmarks.scale.meter import Meter

STEP_SECONDS = 0.1


class Parts:
    """Each method is a part, and answers what JSON takes."""

    def __init__(self, url: str, options: argparse.Namespace) -> None:
        self._options = options
        self._url = url
        self._redis: Any = redis.Redis.from_url(self._url, decode_responses=True)
        self._meter = Meter(self._redis)

    def idle(self) -> dict[str, Any]:
        """Workers with nothing to do."""
        given = self._options
        spent = idle(self._url, self._meter, workers=given.real, registered=given.workers, seconds=given.seconds)
        return {"workers": given.real, "wall_seconds": given.seconds, **asdict(spent)}

    def few_steps(self) -> dict[str, Any]:
        """Jobs of two steps."""
        return self._flow(steps=2)

    def many_steps(self) -> dict[str, Any]:
        """Jobs of twenty."""
        return self._flow(steps=20)

    def watched(self) -> dict[str, Any]:
        """The same, each with an open stream."""
        return self._flow(steps=20, watched=True)

    def herd(self) -> dict[str, Any]:
        """Jobs of twenty steps among many workers that wait for one: what is said to all of them costs all of them."""
        return self._flow(steps=20, workers=self._options.herd)

    def crowd(self) -> dict[str, Any]:
        """A full cell, in a Redis that has nothing else."""
        self._redis.flushall()
        given = self._options
        found = Crowd(self._url, self._meter, workers=given.workers, callers=given.callers).move()
        return {
            "states": {name: {"jobs": jobs, **asdict(spent)} for name, (jobs, spent) in found.states.items()},
            "bytes_per_job": found.bytes_per_job,
            "fair": asdict(fairness(found.turns)),
            "first_come": asdict(fairness(found.arrivals)),
            "jobs": len(found.turns),
            "reaped": found.reaped,
            "rounds": found.rounds,
            "requeued_after_seconds": found.requeued_after,
        }

    def _flow(self, *, steps: int, watched: bool = False, workers: int = 0) -> dict[str, Any]:
        given, workers = self._options, workers or self._options.real
        what = Flow(given.rate, given.seconds, steps=steps, step_seconds=STEP_SECONDS, watched=watched)
        flowed = flow(self._url, self._meter, what, workers=workers, callers=given.callers)
        return {
            "workers": workers,
            "steps": steps,
            "watched": watched,
            "jobs": flowed.jobs,
            "wall_seconds": flowed.seconds,
            "waited_ms": sorted(flowed.waited_ms),
            **asdict(flowed.spent),
        }


PARTS: dict[str, Callable[[Parts], dict[str, Any]]] = {
    each.__name__: each
    for each in (Parts.idle, Parts.few_steps, Parts.many_steps, Parts.watched, Parts.herd, Parts.crowd)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("workers", "callers", "real", "herd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("seconds", "rate"):
        parser.add_argument(f"--{name}", type=float, required=True)
    # Only what is asked for stands on the standard output.
    configure("error", process="scale")
    with TemporaryDirectory(prefix="scale-") as folder:
        # With the settings that this version gives its own.
        (Path(folder) / "logs").mkdir()
        valkey = EmbeddedValkey(Path(folder))
        valkey.start()
        try:
            parts = Parts(valkey.url, parser.parse_args())
            for line in sys.stdin:
                print(json.dumps(PARTS[line.strip()](parts)), flush=True)
        finally:
            valkey.stop()


if __name__ == "__main__":
    main()
