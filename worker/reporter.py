"""What the engine says, told to the record: progress and previews now and then (live_news.py), the last word always.

Final news is never dropped: pictures are stored in a pool (finisher.py), and the result is kept here until the record
has it, however long Redis is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import redis
import structlog

from app.contract.messages.card import Safety
from app.contract.messages.job import BlockedPicture, Candidate, JobError, Selection
from app.contract.messages.usage import Work
from app.contract.redis.ownership import Claim, Ownership
from worker.attempts import Answered, Attempt, Attempts, NotBegun, Stop
from worker.engine.errors import GenerationFailed
from worker.engine.events import (
    EngineEvent,
    Failed,
    Finished,
    LastEvent,
    Parked,
    Preview,
    Progress,
    SnapshotTaken,
    Started,
    Stopped,
)
from worker.engine.snapshot import Snapshot
from worker.errors import Abandoned, StorageDenied, StorageError, WorkerError
from worker.finisher import Finisher
from worker.live_news import LiveNews
from worker.provenance import Provenance
from worker.safety import judged
from worker.snapshots import Snapshots
from worker.storage import ObjectStore
from worker.tracing import Traces

log = structlog.get_logger()

MOST_ENDING = 16
"""Jobs that have been drawn and not yet put away, before no more are claimed. One may have 128 MiB of steps."""

FINISHERS = 4
"""Threads that write and store pictures. PNG compression releases the interpreter lock."""


class Reporter:
    """Listens to the engine on behalf of the record. `stepped` is called from the engine's thread and never blocks."""

    def __init__(
        self,
        ownership: Ownership,
        store: ObjectStore,
        attempts: Attempts,
        provenance: Mapping[str, Provenance],
        traces: Traces | None = None,
        safety: Safety = "off",
        snapshots: Snapshots | None = None,
    ) -> None:
        """`provenance` is of the pictures of each model, by its name; models may be added."""
        self._ownership = ownership
        self._traces = traces or Traces()
        self._store = store
        self._attempts = attempts
        self._safety: Safety = safety
        self._snapshots = snapshots
        self._finishers = ThreadPoolExecutor(FINISHERS, thread_name_prefix="finisher")
        self._ending, self._counting = 0, threading.Lock()
        self.live = LiveNews(ownership, attempts)
        self._finisher = Finisher(store, provenance)
        self._over = threading.Event()
        self._gave_up = threading.Event()
        self._storage_fault: str | None = "not probed yet"
        threading.Thread(target=self.live.keep_telling, args=[self._over], name="progress", daemon=True).start()

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """Take the events of one step of the engine."""
        for event in events:
            self.handle(event)

    def handle(self, event: EngineEvent | NotBegun | Answered) -> None:
        """Take one event of the engine, or the last word about a job that it has never heard of."""
        if isinstance(event, Progress | Preview):
            self.live.put(event)
        elif isinstance(event, Started):
            attempt = self._attempts.get(event.request_id)
            if attempt is not None and attempt.resumed_at_step is None:
                attempt.resumed_at_step = event.resumed_at
        elif not isinstance(event, SnapshotTaken):
            self.live.forget(event.request_id)
            attempt = self._attempts.get(event.request_id)
            if attempt is not None:
                self._end_soon(attempt, event)

    @property
    def has_room(self) -> bool:
        """No more jobs than so many wait to be put away: each holds its pictures, and maybe all of their steps."""
        return self._ending < MOST_ENDING

    def _end_soon(self, attempt: Attempt, event: LastEvent | NotBegun | Answered) -> None:
        with self._counting:
            self._ending += 1
        self._attempts.seat_freed()
        self._finishers.submit(self._end, attempt, event)

    def refuse(self, claim: Claim, detail: str) -> None:
        """The engine cannot take this job at all."""
        failed = Failed(claim.token, GenerationFailed(detail))
        self._end_soon(Attempt(claim), failed)

    def storage_is_well(self) -> bool:
        """False at first and after pictures could not be stored, until a probe succeeds. Blocks for the probe."""
        if self._storage_fault is None:
            return True
        try:
            self._store.check()
        except StorageError as error:
            self._note_storage_fault(error.detail)
            self._over.wait(1.0)
            return False
        log.info("storage is well")
        self._storage_fault = None
        return True

    def close(self, *, seconds: float) -> None:
        """Stop reporting progress and let the finishers end what they hold."""
        self._over.set()
        if not self._attempts.wait_until_empty(seconds):
            log.warning("leaving with words unsaid; the leases run out", jobs=len(self._attempts.claims()))
        self._gave_up.set()
        self._finishers.shutdown(wait=False, cancel_futures=True)

    def _end(self, attempt: Attempt, event: LastEvent | NotBegun | Answered) -> None:
        """Run in a finisher: say the last word about one attempt, then let go of it."""
        claim, owned = attempt.claim, False
        try:
            event = judged(replace(event, work=attempt.spent + event.work), claim.spec, self._safety)
            said = self._last_word(attempt, event)
            owned = self._until_said(claim, said)
            took = {"evaluations": event.work.evaluations, "device_seconds": round(event.work.device_seconds, 3)}
            said_as = "ended" if owned else "ended, but no longer ours"
            log.info(said_as, job_id=claim.id, news=type(event).__name__, **took)
        except Exception:
            log.exception("attempt failed to end", job_id=claim.id)
            error = JobError(slug="internal", detail="The picture was made, but could not be written. It is logged.")
            self._until_said(claim, lambda: self._ownership.fail(claim, error, work=event.work))
        finally:
            with self._counting:
                self._ending -= 1
            self._traces.ended(claim, event, owned=owned)
            self._attempts.close(claim.token)

    def _last_word(self, attempt: Attempt, event: LastEvent | NotBegun | Answered) -> Callable[[], bool]:
        claim, work = attempt.claim, event.work
        if isinstance(event, NotBegun):
            return self._after_fault(attempt, event.error, work)
        if isinstance(event, Answered):
            spent = {"score": round(event.seconds, 4)}
            facts: dict[str, Any] = {"timings": spent, "warnings": event.warnings, "work": event.work}
            return lambda: self._ownership.answered(claim, event.result, **facts)
        if isinstance(event, Finished):
            return self._put_away(attempt, event)
        if isinstance(event, Failed):
            error, blocked = JobError(slug=event.error.slug, detail=event.error.detail), _blocked(event)
            return lambda: self._ownership.fail(claim, error, blocked=blocked, work=work)
        if attempt.stop is Stop.GIVEN_BACK:
            snapshot = event.snapshot if isinstance(event, Parked) else attempt.goes_on_from
            return self._hand_back(attempt, "worker-stopped", snapshot, work)
        if attempt.stop is Stop.LOST:
            return lambda: False
        return lambda: self._ownership.canceled(claim, work=work)

    def _put_away(self, attempt: Attempt, finished: Finished) -> Callable[[], bool]:
        """Store the pictures; the word that follows depends on whether that went well."""
        claim, started = attempt.claim, time.monotonic()
        try:
            with self._traces.upload(claim):
                pictures = self._finisher.store(attempt, finished)
        except WorkerError as error:
            return self._after_fault(attempt, error, finished.work)
        spent = finished.timings
        timings = {"encode": spent.encode, "denoise": spent.denoise, "decode": spent.decode}
        timings = {name: round(value, 4) for name, value in (timings | {"upload": time.monotonic() - started}).items()}
        facts: dict[str, Any] = {"timings": timings, "warnings": finished.warnings}
        facts |= {"steps": finished.steps, "blocked": _blocked(finished), "selection": _selection(finished)}
        facts |= {"work": finished.work, "resumed_at_step": attempt.resumed_at_step or 0}
        return lambda: self._ownership.succeed(claim, pictures, **facts) or self._finisher.take_away(claim)

    def _after_fault(self, attempt: Attempt, error: WorkerError, work: Work) -> Callable[[], bool]:
        """Of a transfer between this process and the store, on either way, before or after the `work`."""
        claim = attempt.claim
        if isinstance(error, Abandoned):
            if attempt.stop is Stop.LOST:
                return lambda: self._finisher.take_away(claim)
            return self._last_word(attempt, Stopped(claim.token, work))
        if isinstance(error, StorageError):
            self._note_storage_fault(error.detail)
            if error.is_given_back:
                return self._hand_back(attempt, "storage-unavailable", attempt.goes_on_from, work)
            error = StorageDenied("The service may not use its storage. It is logged.")
        failed = JobError(slug=error.slug, detail=error.detail)
        return lambda: self._ownership.fail(claim, failed, work=work)

    def _hand_back(self, attempt: Attempt, reason: str, snapshot: Snapshot | None, work: Work) -> Callable[[], bool]:
        """To whoever claims it next, with what it can go on from. A worker that ends has little time to keep that."""
        claim = attempt.claim
        if snapshot is not None and self._snapshots is not None:
            ends = attempt.stop is Stop.GIVEN_BACK
            (self._snapshots.keep_at_last if ends else self._snapshots.keep_or_not)(claim, snapshot)
        return lambda: self._ownership.give_back(claim, reason, work=work)

    def _until_said(self, claim: Claim, say: Callable[[], bool]) -> bool:
        """Say it until Redis has heard it, or the process must go. The scripts recognise what they have done."""
        pause = 0.05
        while not self._gave_up.is_set():
            try:
                return say()
            except redis.RedisError as error:
                log.warning("redis is away; the result is kept", job_id=claim.id, reason=str(error))
                self._gave_up.wait(pause)
                pause = min(pause * 2, 1.0)
        return False

    def _note_storage_fault(self, detail: str) -> None:
        if self._storage_fault != detail:
            log.error("storage fault; claiming pauses", reason=detail)
        self._storage_fault = detail


def _selection(event: Finished) -> Selection | None:
    if not event.judged_by:
        return None
    return Selection(**event.judged_by, candidates=tuple(Candidate(**asdict(each)) for each in event.candidates))


def _blocked(event: Finished | Failed) -> list[BlockedPicture]:
    return [BlockedPicture(index=index, seed=seed) for index, seed in event.blocked]
