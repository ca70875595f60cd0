"""Which models are wanted, for workers that have several folders and one of them in memory; and who takes one up.

Knows the scripts. Refuses to know when it is worth it: worker/next_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from app.contract.redis.scripts import source


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """For one model: `waiting` jobs, for `unserved` seconds without one of them being claimed.

    `in_memory` is how many workers have it, `taken_by` who is about to. `job_seconds` is how long a job runs, and
    `seat_seconds` that times the seats it holds: None before the first.
    """

    waiting: int
    unserved: float
    in_memory: int
    taken_by: str | None = None
    job_seconds: float | None = None
    seat_seconds: float | None = None


class ModelDemand:
    """`client` must decode responses. Methods raise redis.RedisError while Redis is away and may be called again."""

    def __init__(self, client: redis.Redis) -> None:
        names = ("demand", "take_up", "taken_up")
        self._scripts = {name: client.register_script(source(name)) for name in names}

    def look(self, models: Sequence[str]) -> dict[str, Demand]:
        """For each of the models, in one round trip."""
        if not models:
            return {}
        return dict(zip(models, map(_demand, self._scripts["demand"](args=list(models))), strict=True))

    def take_up(self, model: str, worker: str, *, seen: int) -> bool:
        """The worker alone is about to load the model; `seen` had it in memory when it looked. False if another is, or
        has it by now. Lasts until `taken_up`, or until the worker has not beaten for a lease."""
        return bool(self._scripts["take_up"](args=[model, worker, seen]))

    def taken_up(self, model: str, worker: str) -> None:
        """It is in memory, or is given up."""
        self._scripts["taken_up"](args=[model, worker])


def _demand(answer: Sequence[object]) -> Demand:
    waiting, unserved_ms, in_memory, taken_by, job_ms, seat_ms = answer
    return Demand(
        waiting=int(str(waiting)),
        unserved=float(str(unserved_ms)) / 1000,
        in_memory=int(str(in_memory)),
        taken_by=str(taken_by) if taken_by else None,
        job_seconds=float(str(job_ms)) / 1000 if job_ms else None,
        seat_seconds=float(str(seat_ms)) / 1000 if seat_ms else None,
    )
