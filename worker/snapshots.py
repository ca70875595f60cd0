"""Snapshots of the jobs under way: kept where other workers find them, and found again.

Best effort in both directions: what cannot be kept or found costs evaluations, never a job. Small ones lie in Redis
beside the record, large ones in the object store. Knows claims and sizes; refuses to know what a snapshot is made of,
and when it is time for the next: cadence.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

import redis
import structlog

from app.contract.objects.names import snapshot_key
from app.contract.redis.ownership import Claim
from app.contract.redis.snapshots import KeptSnapshot, SnapshotRecords
from worker.attempts import Attempts
from worker.engine.snapshot import Snapshot, Unfit
from worker.errors import WorkerError
from worker.provenance import Provenance
from worker.settings import WorkerSettings
from worker.snapshot_file import read, written
from worker.storage import ObjectStore

log = structlog.get_logger()

BESIDE_RECORD = 512 * 1024
"""Bytes of a snapshot that lies in Redis, at most. One register of a 512 x 512 picture has 64 KiB, one of 1024 x 1024
has 256, solvers have 1 to 6; a hash of half a megabyte costs Redis a fraction of a millisecond. What is larger is some
picture of the job that is finished already, deep features, or a trajectory."""

STORE_SECONDS = 10.0
"""The object store may be away for so long before a snapshot is dropped: another one follows."""

FIND_SECONDS = 3.0
"""The same of one that is looked for, before its job starts over."""

RESTS_SECONDS = (10.0, 300.0)
"""A job whose snapshot was too large, or could not be kept, has its next one not before so long; twice that after the
next failure, and so on, to the second at most. The whole of it was copied and written for nothing."""

LAST_SECONDS = 4.0
"""Of the ten that a worker has for its last words: for the last snapshots of all jobs that it hands back."""

LAST_WRITERS = 4
"""Threads that keep those: as many as there are finishers, who wait for them."""

MOST_UNDER_WAY = 8
"""Snapshots that wait to be kept, at most: no more are taken until then."""

SAME = ("model_hash", "dtype", "vae", "torch", "diffusers")
"""Of the provenance, what whoever goes on has to have as well. Generators' states and schedulers' attributes are those
of the libraries' versions."""

Noted = TypeVar("Noted")
Outcome = Literal["kept", "too-large", "failed", "not-ours"]


class Counts(Protocol):
    """Who counts them."""

    def snapshot(self, outcome: Outcome, size: int) -> None:
        """One was taken, and so many bytes were written."""

    def looked_for(self, *, found: bool, is_refused: bool, repeated: int) -> None:
        """An attempt that is not its job's first began; so many evaluations are made again, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`seconds` between two snapshots of a job that is drawn, at most. `bytes_per_second` of this worker on average,
    and `most_bytes` of one."""

    seconds: float = 2.0
    bytes_per_second: int = 256 * 1024
    most_bytes: int = 64 * 1024 * 1024


class Snapshots:
    """Of all models of one worker. Any thread may call."""

    def __init__(
        self,
        records: SnapshotRecords,
        store: ObjectStore,
        attempts: Attempts,
        provenances: Mapping[str, Provenance],
        limits: Limits,
        *,
        counts: Counts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`provenances` are those of pictures of each model, by its name."""
        self.limits = limits
        self.clock = clock
        self._records = records
        self._store = store
        self._attempts = attempts
        self._provenances = provenances
        self._counts = counts
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._last_writers = ThreadPoolExecutor(LAST_WRITERS, thread_name_prefix="last snapshots")
        self._last_until, self._ending = 0.0, threading.Lock()
        self._waiting: set[str] = set()
        self._slots: dict[str, int] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        self._may_write_at = 0.0
        self._said: set[Outcome] = set()

    @classmethod
    def wanted(
        cls,
        settings: WorkerSettings,
        records: SnapshotRecords,
        store: ObjectStore,
        attempts: Attempts,
        provenances: Mapping[str, Provenance],
        *,
        counts: Counts | None,
    ) -> Snapshots | None:
        """None where none are wanted."""
        if not settings.snapshot_seconds:
            return None
        limits = Limits(
            seconds=settings.snapshot_seconds,
            bytes_per_second=settings.snapshot_kib_per_second * 1024,
            most_bytes=settings.snapshot_max_mib * 1024 * 1024,
        )
        return cls(records, store, attempts, provenances, limits, counts=counts)

    @property
    def room(self) -> int:
        """Of how many jobs a snapshot may be taken now."""
        return MOST_UNDER_WAY - len(self._waiting) if self.clock() >= self._may_write_at else 0

    def rests(self, token: str) -> bool:
        """None of this job is to be taken for a while: the last one was for nothing."""
        until, _ = self._rests.get(token, (0.0, 0.0))
        return self.clock() < until

    def keep_if_room(self, token: str, snapshot: Snapshot) -> None:
        """Of a job that nobody had asked for one: soon, unless the limits are against it."""
        if self.room > 0 and not self.rests(token):
            self.keep_soon(token, snapshot)

    def keep_soon(self, token: str, snapshot: Snapshot) -> None:
        """In a thread of its own. While one of a job waits for that, another one of it is dropped."""
        attempt = self._attempts.get(token)
        if attempt is not None and token not in self._waiting:
            self._waiting.add(token)
            try:
                self._writer.submit(self.keep_or_not, attempt.claim, snapshot)
            except RuntimeError:
                # Closed: this worker ends.
                self._waiting.discard(token)

    def keep(self, claim: Claim, snapshot: Snapshot) -> Outcome:
        """Where the next one who claims the job finds it. Blocks for as long as the stores take."""
        size, outcome = self._kept(claim, snapshot)
        self._may_write_at = max(self.clock(), self._may_write_at) + size / self.limits.bytes_per_second
        self._note_rest(claim.token, was_in_vain=outcome in ("too-large", "failed"))
        if self._counts is not None:
            self._counts.snapshot(outcome, size)
        return outcome

    def keep_or_not(self, claim: Claim, snapshot: Snapshot) -> None:
        """As `keep`; nothing is raised and nobody told. Before a worker that goes on hands the job back, too."""
        try:
            self.keep(claim, snapshot)
        except Exception:
            log.exception("a snapshot broke", job_id=claim.id)
        finally:
            self._waiting.discard(claim.token)

    def keep_at_last(self, claim: Claim, snapshot: Snapshot) -> None:
        """Before the worker that ends hands the job back: within what is left of LAST_SECONDS for all of them. The
        hand-back comes in any case; what is not kept by then costs evaluations."""
        with self._ending:
            self._last_until = self._last_until or self.clock() + LAST_SECONDS
            left = self._last_until - self.clock()
        if left <= 0:
            return
        try:
            self._last_writers.submit(self.keep_or_not, claim, snapshot).result(left)
        except (FutureTimeout, CancelledError, RuntimeError):
            # A store that hangs cannot be interrupted. One that comes after the hand-back is refused by its token.
            self._say_once("failed", job_id=claim.id, reason="there was no time left for it")

    def find(self, claim: Claim) -> Snapshot | None:
        """What the job can go on from, of an earlier attempt. Blocks."""
        if claim.attempt == 1:
            return None
        found, refused, reached = None, False, 0
        try:
            kept = self._records.find(claim)
            reached = kept.reached if kept is not None else 0
            found = self._read(claim, kept) if kept is not None else None
        except Unfit as reason:
            refused = True
            log.warning("a snapshot is refused; the job starts over", job_id=claim.id, reason=str(reason))
        except Exception as error:
            log.warning("no snapshot could be asked for; the job starts over", job_id=claim.id, reason=str(error))
        if self._counts is not None:
            behind = found.step if found is not None else 0
            repeated = max(0, reached - behind) * claim.spec.drawn
            self._counts.looked_for(found=found is not None, is_refused=refused, repeated=repeated)
        return found

    def close(self) -> None:
        """Keep nothing more in the background."""
        self._last_writers.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def _kept(self, claim: Claim, snapshot: Snapshot) -> tuple[int, Outcome]:
        """How many bytes were written, and what became of them."""
        try:
            data = written(snapshot, self._drawn_with(claim))
            if len(data) > self.limits.most_bytes:
                self._say_once("too-large", bytes=len(data), most=self.limits.most_bytes)
                return 0, "too-large"
            return len(data), "kept" if self._put(claim, snapshot.step, data) else "not-ours"
        except (redis.RedisError, WorkerError, TypeError, RuntimeError, KeyError) as error:
            self._say_once("failed", job_id=claim.id, reason=str(error))
            return 0, "failed"

    def _put(self, claim: Claim, step: int, data: bytes) -> bool:
        """False if the job is no longer ours."""
        if len(data) <= BESIDE_RECORD:
            return self._records.keep(claim, KeptSnapshot.of(step, data))
        key = snapshot_key(claim.id, claim.token, self._other_slot(claim))
        if not self._records.announce(claim):
            return False
        self._store.put_snapshot(key, data, deadline=STORE_SECONDS)
        return self._records.keep(claim, KeptSnapshot.of(step, data, key=key))

    def _other_slot(self, claim: Claim) -> int:
        """Than that of the snapshot before: it stays whole until this one is known."""
        slot = 1 - self._slots.get(claim.token, 1)
        self._slots = self._of_the_live(self._slots) | {claim.token: slot}
        return slot

    def _note_rest(self, token: str, *, was_in_vain: bool) -> None:
        rests, (first, longest) = self._of_the_live(self._rests), RESTS_SECONDS
        _, before = rests.pop(token, (0.0, 0.0))
        if was_in_vain:
            seconds = min(longest, 2 * before or first)
            rests[token] = self.clock() + seconds, seconds
        self._rests = rests

    def _of_the_live(self, noted: Mapping[str, Noted]) -> dict[str, Noted]:
        live = {each.token for each in self._attempts.claims()}
        return {token: each for token, each in noted.items() if token in live}

    def _read(self, claim: Claim, kept: KeptSnapshot) -> Snapshot:
        """Raises Unfit."""
        data = kept.data if kept.object is None else self._from_store(claim, kept.object)
        if data is None or not kept.is_whole(data):
            raise Unfit("its bytes are gone, or others")
        snapshot = read(data, self._drawn_with(claim))
        log.info("a job goes on", job_id=claim.id, step=kept.step, reached=kept.reached, bytes=len(data))
        return snapshot

    def _from_store(self, claim: Claim, key: str) -> bytes | None:
        attempt = self._attempts.get(claim.token)

        def is_wanted() -> bool:
            return attempt is None or attempt.stop is None

        return self._store.get_snapshot(key, deadline=FIND_SECONDS, keep_trying=is_wanted)

    def _drawn_with(self, claim: Claim) -> dict[str, Any]:
        provenance = asdict(self._provenances[claim.spec.model])
        # Bits are promised on one kind of machine.
        names = (*SAME, "device") if claim.spec.reproducible else SAME
        return {name: provenance[name] for name in names}

    def _say_once(self, what: Outcome, **facts: Any) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning(f"a snapshot was not kept: {what}; its job would start over", **facts)
