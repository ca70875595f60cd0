"""The RQ worker: takes jobs while seats are free, passes on what stops one, hands back at the end.

One registered worker, a queue for each model that it serves, many jobs in flight. RQ carries the ids and the commands;
the scripts of `app.contract` decide who owns what, and worker/leases.py keeps it. Never calls what an RQ payload names.
Knows nothing of torch.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
import structlog
from rq.command import parse_payload
from rq.suspension import is_suspended
from rq.timeouts import BaseDeathPenalty
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker

from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis.keys import IDLE_SECONDS
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.rq_names import queue_name
from worker.attempts import Attempts, Stop
from worker.draining import Draining
from worker.leases import Leases
from worker.roads import Line, Road
from worker.rq_queues import enter_queues, forget_dead_workers
from worker.wakeups import Bell, Ears

log = structlog.get_logger()

LOOK_SECONDS = 0.025
"""Between two looks at whether a seat is free that was not. Redis is not asked for it."""

AGAIN_SECONDS = 1.0
"""Before a claim that failed is tried again."""

REGISTRATION_SECONDS = 60
"""RQ forgets a worker that is silent for this long and another minute."""

BOOKS_SECONDS = 10.0
"""Between two entries in RQ's books."""


class NoPenalty(BaseDeathPenalty):
    """Nothing ends a job after a time: SIGALRM cannot work in threads."""

    def setup_death_penalty(self) -> None: ...
    def cancel_death_penalty(self) -> None: ...


def run(job_id: str) -> None:
    """The entry point RQ payloads name. A stock `rq worker` that takes one must not pretend to have worked."""
    raise RuntimeError(f"{job_id} is run by `darkroom worker`, not by a stock RQ worker")


class Intake(BaseWorker):
    """RQ's view of this process, and the loop that claims."""

    death_penalty_class = NoPenalty

    def __init__(
        self,
        *,
        served: Sequence[tuple[ModelCard, Road]],
        name: str,
        connection: redis.Redis,
        ownership: Ownership,
        leasing: Ownership,
        attempts: Attempts,
        may_claim: Callable[[], bool],
        claimed: Callable[[Claim], None] = lambda claim: None,
        found_late: Callable[[], None] | None = None,
        note: Callable[[], WorkerNote | None] = lambda: None,
        watched: Callable[[Claim], None] = lambda claim: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connection` is RQ's own and does not decode; `leasing` is of a client that nothing but the leases uses.

        `claimed` hears of each claim before its road does, `found_late` of each for which there was a free seat and no
        word, `watched` of those that somebody begins to look at. `note` is what the worker says of itself with each
        beat.
        """
        cards = [card for card, _ in served]
        queues = [queue_name(card.name) for card in cards]
        super().__init__(queues, name, connection=connection, serializer="json", worker_ttl=REGISTRATION_SECONDS)
        self._ownership = ownership
        self._attempts = attempts
        self._claimed = claimed
        self._may_claim = may_claim
        self._over = threading.Event()
        self._bell = Bell()
        self._draining = Draining(self._bell.ring)
        self.leases = Leases(
            leasing, attempts, cards=cards, worker=name, stop=self._stop, draining=self._draining, note=note
        )
        self._ears = Ears(name, ownership, self._bell)
        self._lines = {card.name: Line(road) for card, road in served}
        self._claiming = threading.Lock()
        self._found_late = found_late or (lambda: None)
        self._watched, self._clock = watched, clock
        attempts.hear_of_seats(self._bell.ring)
        self.stops_asked = 0
        self.was_drained = False

    def serve(self, model: str, road: Road) -> None:
        """Claim jobs of one model more, while others are claimed already. It is announced by itself: see Leases."""
        self._lines = {**self._lines, model: Line(road)}
        self._bell.ring()

    def rest(self, model: str) -> None:
        """Claim nothing more of it; what was claimed goes on. Waits for a claim that is under way."""
        with self._claiming:
            self._lines[model].rests = True
            self._ears.close(model)

    def resume(self, model: str) -> None:
        """Claim again what rested."""
        self._lines[model].rests = False
        self._bell.ring()

    def close_road(self, model: str) -> None:
        """The model is not there any more. It rests, and none of its jobs is in flight."""
        with self._claiming:
            self._ears.close(model)
            self._lines = {name: line for name, line in self._lines.items() if name != model}

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        # RQ would raise its timeout to 55 s, for a blocking pop that is not used here.
        return connection

    def request_stop(self, signum: int = 0, frame: object = None) -> None:
        """SIGTERM, SIGINT or RQ's shutdown command.

        A signal may land anywhere, in a Redis round trip or inside a lock: none is taken here, not even a
        threading.Event's, which its own thread may hold at that moment.
        """
        self.stops_asked += 1
        self._stop_requested = True
        self._bell.ring()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """RQ's commands, and three more. Unlike a stock worker's, `stop-job` finds the job among all executions."""
        payload = parse_payload(message)
        if payload.get("command") == "shutdown":
            self.request_stop()
            return
        if payload.get("command") in ("drain", "undrain"):
            self._draining.command(payload["command"] == "drain")
            return
        for claim in self._attempts.claims():
            if claim.id != payload.get("job_id"):
                continue
            if payload.get("command") in ("stop-job", "stop-execution"):
                self._stop(claim, Stop.CANCELED)
            elif payload.get("command") == "watch":
                self._watched(claim)

    def claim_until_stopped(self, *, registered: Callable[[], None]) -> None:
        """Register, then claim until asked to stop. `registered` is called once others can see this worker."""
        self._outlive_redis(lambda: self.bootstrap("WARNING"))
        self._outlive_redis(self.leases.beat)
        threading.Thread(target=self.leases.keep, args=[self._over], name="leases", daemon=True).start()
        threading.Thread(target=self._keep_books, name="books", daemon=True).start()
        self._ears.listen()
        registered()
        while not (self._stop_requested or self._leaves_drained()):
            if not sum(self._claim_one(model) for model in self._lines):
                self._bell.wait(self._pause())
        for model in self._lines:
            self._ears.close(model)

    def finish(self, seconds: float) -> None:
        """Let what was claimed end, for so long or until another signal comes, and hand the rest back."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and self.stops_asked < 2 and not self._attempts.wait_until_empty(0.05):
            for line in list(self._lines.values()):
                line.road.go_on()
        self.hand_back()

    def hand_back(self) -> None:
        """Stop every attempt in flight; whoever carries it gives it back."""
        for claim in self._attempts.claims():
            self._stop(claim, Stop.GIVEN_BACK)

    def leave(self) -> None:
        """Take this worker off every list. Without Redis there is nothing to do: the entries expire by themselves."""
        self._over.set()
        self._ears.end()
        try:
            self._ownership.give_back_unanswered(self.name)
            self.leases.leave()
            self.teardown()
        except redis.RedisError as error:
            log.warning("left without telling redis", reason=str(error))

    @property
    def is_ending(self) -> bool:
        """No more is begun, whatever comes."""
        return self._stop_requested or self.was_drained

    @property
    def is_draining(self) -> bool:
        """No more is begun, unless an operator takes that back."""
        return self._draining.is_wanted

    def _leaves_drained(self) -> bool:
        """Whether it was drained and has ended its last job. Redis knows by then that it serves nothing, so that nobody
        is told afterwards that it goes on."""
        if not self.is_draining or self._attempts.claims():
            return False
        commands = self._draining.commands
        try:
            self.was_drained = self.leases.leave_drained()
        except redis.RedisError as error:
            log.warning("redis is away; a drained worker stays until it answers", reason=str(error))
            self._bell.wait(AGAIN_SECONDS)
            return False
        if not self.was_drained:
            self._draining.beat(False, commands=commands)
        return self.was_drained

    def _claim_one(self, model: str) -> bool:
        """True if a job was there. Asks only with a seat that is free or can be made, and where nobody has just found
        nothing."""
        with self._claiming:
            # A model that was closed since this round began has none.
            line = self._lines.get(model)
            if line is None or self._claim_by(line, model):
                return line is not None
            line.road.go_on()
            return False

    def _claim_by(self, line: Line, model: str) -> bool:
        if not self._can_take(line):
            self._ears.close(model)
            return False
        hurried = line.road.free_seats < 1
        is_late = self._ears.is_open(model) and line.interactive_only == hurried
        if is_late and not self._is_due(line):
            return False
        line.interactive_only = hurried
        # Before it asks: word may be there as soon as the queue was found empty.
        self._ears.open(model)
        claim = self._ask(line, model)
        if claim is None:
            return False
        # There may be more.
        self._ears.close(model)
        line_of_it = self._lines.get(claim.spec.model)
        if line_of_it is None or line_of_it.rests:
            self._give_back(claim)
            return True
        if is_late:
            self._found_late()
        log.info("claimed", job_id=claim.id, attempt=claim.attempt, late=is_late)
        self._attempts.open(claim)
        self._claimed(claim)
        self._road_of(claim).begin(claim)
        return True

    def _can_take(self, line: Line) -> bool:
        if self.is_draining or line.rests or line.road.seats_for_interactive < 1:
            return False
        if not self.leases.are_sure or not self._may_claim():
            return False
        return not any(claim.runs_alone for claim in self._attempts.claims())

    def _is_due(self, line: Line) -> bool:
        return self._clock() - line.asked_at >= IDLE_SECONDS

    def _ask(self, line: Line, model: str) -> Claim | None:
        line.asked_at = self._clock()
        try:
            held, only = len(self._attempts.claims()), line.interactive_only
            return self._ownership.claim(model, self.name, holding=held, interactive_only=only)
        except redis.RedisError as error:
            log.warning("redis is away; claiming pauses", reason=str(error))
            self._bell.wait(AGAIN_SECONDS)
            return None

    def _pause(self) -> float:
        """Seconds until it looks again if nothing rings: soon while seats are taken, which end in more than one way."""
        lines = self._lines
        if not all(self._ears.is_open(model) for model in lines):
            return LOOK_SECONDS
        asked_at = min((line.asked_at for line in lines.values()), default=self._clock())
        return max(0.0, asked_at + IDLE_SECONDS - self._clock())

    def _give_back(self, claim: Claim) -> None:
        """It was asked for before its model went or rested, and the answer was lost on the way."""
        try:
            self._ownership.give_back(claim, "model-swapped")
        except redis.RedisError as error:
            log.warning("a job waits for its lease", job_id=claim.id, reason=str(error))

    def _road_of(self, claim: Claim) -> Road:
        # Not by the queue that was asked: after a lost answer, what comes is what was asked for then.
        return self._lines[claim.spec.model].road

    def _stop(self, claim: Claim, reason: Stop) -> None:
        if self._attempts.stop(claim.token, reason):
            log.info("stopping", job_id=claim.id, reason=reason.value)
            road = self._road_of(claim)
            (road.park if reason is Stop.GIVEN_BACK else road.cancel)(claim.token)

    def _keep_books(self) -> None:
        """RQ's view of this worker, for `rq info` and dashboards. Slow or wrong, it costs no job anything."""
        while not self._over.wait(BOOKS_SECONDS):
            try:
                if not self.connection.exists(self.key):
                    self.register_birth()
                self.set_state(self._state_in_rqs_words())
                self.heartbeat()
                enter_queues(self, [*map(queue_name, self.leases.announced)])
                for queue in self.queues:
                    forget_dead_workers(queue, chance=random.random())
            except redis.RedisError as error:
                log.warning("rq was not told of this worker", reason=str(error))
            except Exception:
                log.exception("rq's books broke")

    def _state_in_rqs_words(self) -> WorkerStatus:
        if is_suspended(self.connection):
            return WorkerStatus.SUSPENDED
        return WorkerStatus.BUSY if self._attempts.claims() else WorkerStatus.IDLE

    def _outlive_redis(self, call: Callable[[], object]) -> None:
        """Do it as soon as Redis is there. A worker that starts first waits, and says so."""
        said = 0.0
        while not self._stop_requested:
            try:
                call()
                return
            except redis.RedisError as error:
                if time.monotonic() - said > 10:
                    said = time.monotonic()
                    log.warning("waiting for redis: start it, or set REDIS_URL", reason=str(error))
                time.sleep(0.5)
