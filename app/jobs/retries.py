"""Failed jobs that an operator has run again, whoever's they are: one, or all that are dead, a piece at a time.

The same for the API and the command line on the service's machine. Knows what each refusal means; refuses to know how
an answer is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.contract.messages.audit import Change, Operator
from app.contract.redis.operations import Operations
from app.contract.redis.overview import Overview, Place
from app.contract.redis.store import JobStore, Retry

Refusal = Literal[
    "missing", "not-failed", "content-blocked", "model-gone", "input-gone", "queue-full", "tenant-full", "rate-limited"
]

REFUSALS: dict[Refusal, str] = {
    "missing": "there is no such job; it may have been deleted, or its time of keeping is over",
    "not-failed": "only a failed job can be run again",
    "content-blocked": "its pictures were flagged, and the same seed would draw the same again",
    "model-gone": "its model was forgotten: nobody would draw it",
    "input-gone": "a picture that it was drawn from is not kept any more",
    "queue-full": "the queue is full: try again when it is shorter, or raise DARKROOM_QUEUE_LIMIT",
    "tenant-full": "its owner has too many unfinished jobs: wait for some, or raise DARKROOM_TENANT_LIMIT",
    "rate-limited": "its owner's key has used up its minute",
}


@dataclass(frozen=True, slots=True)
class Rerun:
    """What became of one job: `new_id` is the job that runs in its place, or there is a `refusal`."""

    id: str
    new_id: str = ""
    refusal: Refusal | None = None
    is_new: bool = False
    """False if it had been run again before."""


class Retries:
    """Each change is a line of the audit. Methods raise redis.RedisError, and QueueLost, as JobStore does."""

    def __init__(
        self,
        store: JobStore,
        overview: Overview,
        operations: Operations,
        *,
        queue_limit: int,
        tenant_limit: int,
        cell: str | None = None,
        require_store: Callable[[], None] = lambda: None,
    ) -> None:
        """New jobs get ids of `cell`. `require_store` raises where none may be taken, since the store is another's."""
        self._require_store = require_store
        self._store = store
        self._overview = overview
        self._operations = operations
        self._queue_limit, self._tenant_limit, self._cell = queue_limit, tenant_limit, cell

    async def one(self, job_id: str, by: Operator) -> Rerun:
        """Run a failed job again as a new one; the same new one however often this is said."""
        return await self._run_again(job_id, by)

    async def dead(self, by: Operator, *, limit: int, before: Place | None = None) -> tuple[list[Rerun], Place | None]:
        """The same for the dead jobs after a place, at most so many, and the place to go on from. None: that was all.

        Said again after an answer that was lost, it goes on with what is left.
        """
        found = await self._overview.dead(limit=limit + 1, before=before)
        line = await self._operations.begin(Change.by(by, "retry", "dead", f"begun: {len(found[:limit])} jobs"))
        done = [await self._run_again(record.id) for record, _ in found[:limit]]
        count, refused = sum(each.is_new for each in done), sum(each.refusal is not None for each in done)
        await self._operations.end(line, f"{count} run again, {refused} cannot" if count else "")
        record, died_ms = found[limit - 1] if len(found) > limit else (None, 0)
        return done, (died_ms, record.id) if record else None

    async def _run_again(self, job_id: str, by: Operator | None = None) -> Rerun:
        self._require_store()
        if await self._overview.is_of_forgotten_model(job_id):
            return Rerun(job_id, refusal="model-gone")
        answer = await self._store.retry(
            job_id, None, queue_limit=self._queue_limit, tenant_limit=self._tenant_limit, cell=self._cell, by=by
        )
        if answer.outcome in ("created", "replayed"):
            return Rerun(job_id, answer.id, is_new=answer.outcome == "created")
        return Rerun(job_id, refusal=_refusal(answer.outcome))


def _refusal(outcome: Retry) -> Refusal:
    return next(each for each in REFUSALS if each == outcome)
