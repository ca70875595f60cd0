"""One version's part of a run: plays workers and callers against a Redis of its own and prints what was found, as JSON.

Run by __main__.py, with the code of that version in PYTHONPATH. Refuses to know of which.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import redis

from app.contract.common.logs import configure
from app.contract.redis import keys
from benchmarks.scale.crowd import Crowd, Crowded
from benchmarks.scale.fairness import fairness
from benchmarks.scale.flow import Flow, Flowed, flow, idle
from benchmarks.scale.meter import Meter, Spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("redis_url")
    for name in ("workers", "callers", "real"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("seconds", "rate"):
        parser.add_argument(f"--{name}", type=float, required=True)
    options = parser.parse_args()
    configure("error", process="scale")
    url, real = options.redis_url, options.real
    client = redis.Redis.from_url(url, decode_responses=True)
    meter = Meter(client)
    resting = idle(url, meter, workers=real, registered=options.workers, seconds=options.seconds)
    found: dict[str, Any] = {"idle": {"workers": real, "wall_seconds": options.seconds, **asdict(resting)}, "flows": []}
    per_second = resting.seconds / options.seconds
    for what in flows(options.rate, options.seconds):
        flowed = flow(url, meter, what, workers=real, callers=options.callers)
        found["flows"].append(asdict(what) | told(flowed, per_second))
    client.flushall()
    crowded = Crowd(url, meter, workers=options.workers, callers=options.callers).move()
    print(json.dumps(found | {"crowd": told_of_crowd(crowded)}))


def flows(rate: float, seconds: float) -> list[Flow]:
    """Of 2 and of 20 steps, the latter without and with somebody who watches."""
    return [
        Flow(rate, seconds, steps=2, step_seconds=0.1),
        Flow(rate, seconds, steps=20, step_seconds=0.1),
        Flow(rate, seconds, steps=20, step_seconds=0.1, watched=True),
    ]


def told(flowed: Flowed, idle_per_second: float) -> dict[str, Any]:
    """Per job, without what the workers would have asked of Redis all the same."""
    own = flowed.spent.seconds - idle_per_second * flowed.seconds
    return {
        "jobs": flowed.jobs,
        "took_seconds": flowed.seconds,
        "redis_seconds": flowed.spent.seconds,
        "scripts": flowed.spent.scripts,
        "own_ms_per_job": 1000 * own / flowed.jobs,
        "waited_ms": sorted(flowed.waited_ms),
    }


def told_of_crowd(crowded: Crowded) -> dict[str, Any]:
    states: dict[str, tuple[int, Spent]] = crowded.states
    return {
        "states": {name: {"jobs": jobs, **asdict(spent)} for name, (jobs, spent) in states.items()},
        "bytes_per_job": crowded.bytes_per_job,
        "fair": asdict(fairness(crowded.turns)),
        "first_come": asdict(fairness(crowded.arrivals)),
        "jobs": len(crowded.turns),
        "reaped": crowded.reaped,
        "rounds": crowded.rounds,
        "requeued_after_seconds": crowded.requeued_after,
        "beat_seconds": keys.BEAT_SECONDS,
    }


if __name__ == "__main__":
    main()
