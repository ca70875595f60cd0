"""A model as Redis knows it: its card, who serves it, and since when nobody does. What models.lua answers, read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.contract.messages.card import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """An operator has paused the model: nobody claims its jobs. With `left_seconds` it ends by itself after so long.

    `accepts`: further jobs come in, and wait. `reason` is for callers; it may be empty.
    """

    since_ms: int
    accepts: bool
    reason: str
    until_ms: int | None
    left_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One announced model and the workers that were heard of lately.

    `seen_ms` is the moment of Redis time when one was last heard of, `away_seconds` how long ago that was, 0 while
    there is one. `in_memory` of the workers have it loaded; where none has, one could in `ready_ms`, or nobody can say
    (None). `pace_ms` is how long a job runs and `seat_ms` that times the seats it holds: moving averages, None
    before the first has ended.
    """

    card: ModelCard
    workers: int
    seen_ms: int
    waiting: int = 0
    """Jobs in its queue, whoever's they are."""
    away_seconds: float
    pace_ms: float | None
    seat_ms: float | None
    in_memory: int
    ready_ms: float | None
    paused: Pause | None = None

    def eta_seconds(self, ahead: int) -> float | None:
        """Until a job with `ahead` others before it has finished; None while nobody can say.

        Little's law: seats that are all taken let go of a job every seat_ms / seats. Those before it take that long
        each, then it runs itself. Before all of it, a model that no worker has in memory is loaded, and a pause ends.
        """
        room = self.room_in_seconds(ahead)
        return None if room is None or self.pace_ms is None else room + self.pace_ms / 1000

    def room_in_seconds(self, wanted: int) -> float | None:
        """Until `wanted` of the jobs before have finished."""
        pause = self.paused.left_seconds if self.paused else 0.0
        if not self.workers or self.seat_ms is None or pause is None:
            return None
        loading_ms = 0.0 if self.in_memory else self.ready_ms or 0.0
        return pause + (loading_ms + wanted * self.seat_ms / (self.card.seats * max(1, self.in_memory))) / 1000


def read_served(answer: list[Any]) -> dict[str, ServedModel]:
    """The answer of models.lua, by name."""
    now_ms, *found = answer
    return {name: _served(now_ms, *rest) for name, *rest in sorted(found, key=lambda each: str(each[0]))}


def _served(
    now_ms: int,
    card: str,
    workers: int,
    seen_ms: int,
    waiting: int,
    job_ms: str | None,
    seat_ms: str | None,
    in_memory: int,
    ready_ms: str | None,
    paused: Sequence[str | None],
) -> ServedModel:
    return ServedModel(
        card=ModelCard.model_validate_json(card),
        workers=workers,
        seen_ms=seen_ms,
        waiting=waiting,
        away_seconds=0.0 if workers else (now_ms - seen_ms) / 1000,
        pace_ms=float(job_ms) if job_ms else None,
        # A release before fair queueing noted the first alone.
        seat_ms=float(seat_ms or job_ms or 0) or None,
        in_memory=in_memory,
        ready_ms=float(ready_ms) if ready_ms else None,
        paused=_pause(now_ms, *paused),
    )


def _pause(
    now_ms: int, since_ms: str | None, accepts: str | None, reason: str | None, until: str | None
) -> Pause | None:
    if not since_ms:
        return None
    left = max(0.0, (int(until) - now_ms) / 1000) if until else None
    return Pause(
        since_ms=int(since_ms),
        accepts=accepts == "1",
        reason=reason or "",
        until_ms=int(until) if until else None,
        left_seconds=left,
    )
