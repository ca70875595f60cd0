"""Thousands of interleavings of the scripts against a model in plain Python that knows no Redis.

The model says whose turn it is, who owns what and how everything ends; after each step the whole of Redis must agree.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError, cost_of
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.urgency import ORDINARY, Urgency
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Claim, Ownership
from app.contract.redis.scripts import source
from app.contract.redis.store import JobStore, NewJob
from app.contract.redis.usage_counters import USAGE_COUNTERS
from tests.contract.interleavings import play
from tests.forgetful import Losses

T = TypeVar("T")
MODEL = "starter"
LIST = f"rq:queue:generate-{MODEL}"
TENANTS = st.sampled_from(["ann", "bob", "cid"])
AN_HOUR_MS = 3_600_000
URGENCIES = st.sampled_from(
    [Urgency(), Urgency(), Urgency("batch"), *(Urgency(deadline_ms=hours * AN_HOUR_MS) for hours in (5, 9))]
)
"""Deadlines that nothing here can miss."""
WORKERS = st.sampled_from(["w1", "w2", "w3"])
QUEUE_LIMIT, TENANT_LIMIT = 12, 8
A_DAY_MS = 86_400_000
TERMINAL = ("succeeded", "failed", "canceled")
RECOGNISED = ("submit", "retry", "claim", "finish", "give_back", "cancel", "forget")
"""Scripts that do something once, for whoever says it, however late it is said again."""


_numbers = itertools.count()


def next_id(cell: str | None = None) -> str:
    """Ids in order: two jobs with one tag are claimed by id, and a replay must find the same order."""
    return f"job_{next(_numbers):024x}"


@dataclass
class Job:
    """What must be true of one job."""

    id: str
    tenant: str
    cost: float
    urgency: Urgency = ORDINARY
    number: int = 0
    stands: bool = True
    """It has not come back: its tenant's turn decides about it."""
    status: str = "queued"
    attempt: int = 0
    failures: int = 0
    tag: float = 0.0
    score: float = 0.0
    token: str | None = None
    worker: str = ""
    step: int = 0
    cancel: bool = False
    given_back: str | None = None
    kept_by: str | None = None
    retried_as: str | None = None
    story: list[str] = field(default_factory=lambda: ["job.queued"])

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def queue(self) -> str:
        return "batch" if self.urgency.priority == "batch" else ""

    @property
    def lane(self) -> str:
        return "a" if self.urgency.deadline_ms else "b"

    @property
    def standing(self) -> tuple[str, int, int]:
        """Among those of its tenant."""
        return self.lane, self.urgency.deadline_ms or 0, self.number


@dataclass
class Turns:
    """Fair queueing of one kind of jobs."""

    finish: dict[str, float] = field(default_factory=dict)
    following: dict[str, float] = field(default_factory=dict)
    clock: float = 0.0


class Installation:
    """The model: jobs, turns, orphans, keys. Every method does what a script should."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.orphans: set[str] = set()
        self.dead: set[str] = set()
        self.idempotency: dict[tuple[str, str], tuple[str, str]] = {}
        self.ended = Counter[tuple[str, str]]()
        """By tenant and end, whatever is forgotten."""
        self.begin_anew()

    def begin_anew(self) -> None:
        self.turns = {"": Turns(), "batch": Turns()}
        self.overtakes: Counter[str] = Counter()
        self.came, self.owed = 0, 0.0

    def queue(self) -> list[Job]:
        return sorted((j for j in self.jobs.values() if j.status == "queued"), key=lambda j: (j.score, j.id))

    def refusal(self, tenant: str) -> str | None:
        if len(self.queue()) >= QUEUE_LIMIT:
            return "queue-full"
        mine = [job for job in self.jobs.values() if job.tenant == tenant and not job.is_terminal]
        return "tenant-full" if len(mine) >= TENANT_LIMIT else None

    def standing(self, queue: str, tenant: str) -> list[Job]:
        """The jobs of a tenant, in the order in which they take its turns."""
        mine = (j for j in self.queue() if j.stands and (j.queue, j.tenant) == (queue, tenant))
        return sorted(mine, key=lambda j: j.standing)

    def accept(self, job: Job) -> None:
        turns = self.turns[job.queue]
        if job.queue and not turns.following:
            self.owed = 0.0
        self.came += 1
        job.number = self.came
        job.tag = max(turns.clock, turns.finish.get(job.tenant, 0.0))
        turns.finish[job.tenant] = job.tag + job.cost
        turns.following.setdefault(job.tenant, job.tag)
        if job.queue:
            job.tag += keys.AFTER_INTERACTIVE
        behind = next((each for each in self.standing(job.queue, job.tenant) if each.standing > job.standing), None)
        if behind is not None:
            job.tag = behind.score - 0.000001
        job.score = job.tag
        self.jobs[job.id] = job

    def left_queue(self) -> bool:
        """A queue that has run empty starts from nothing; a tenant without a job in it has no turn."""
        if empty := not self.queue():
            self.begin_anew()
        for queue, turns in self.turns.items():
            turns.following = {tenant: tag for tenant, tag in turns.following.items() if self.standing(queue, tenant)}
        return empty

    def claim(self, worker: str, holding: int, hurried: bool = False) -> Job | None:
        try:
            return self._claim(worker, holding, hurried)
        except Kept as kept:
            kept.job.kept_by = worker
            return None

    def _claim(self, worker: str, holding: int, hurried: bool) -> Job | None:
        for job in (each for each in self.queue() if not each.stands):
            if self._may_take(job, worker, holding, hurried) and not (hurried and job.queue):
                return self._own(job)
        waits = bool(self.turns["batch"].following)
        if waits and not hurried and self.owed > 0:
            batch = self._turn("batch", worker, holding)
            if batch and self.owed >= keys.BATCH_CHARGE * batch[0].cost:
                self.owed -= keys.BATCH_CHARGE * batch[0].cost
                return self._take(*batch)
        if turn := self._turn("", worker, holding, hurried):
            self.owed += turn[0].cost * waits
            return self._take(*turn)
        turn = None if hurried else self._turn("batch", worker, holding)
        return self._take(*turn) if turn else None

    def _turn(
        self, queue: str, worker: str, holding: int, hurried: bool = False
    ) -> tuple[Job, float, bool | None] | None:
        """The job that takes the turn that starts first, when that is, and whether it passes over one that has waited
        for longer."""
        for tenant, starts in sorted(self.turns[queue].following.items(), key=lambda each: (each[1], each[0])):
            for skipped, job in enumerate(self.standing(queue, tenant)):
                chosen, overtakes = self._chosen(job) if not skipped else (job, None)
                if self._may_take(chosen, worker, holding, hurried):
                    return chosen, starts, overtakes
        return None

    def _may_take(self, job: Job, worker: str, holding: int, hurried: bool) -> bool:
        if job.failures < keys.SUSPECT_AFTER or not holding:
            return True
        if job.kept_by in (None, worker) and not hurried:
            raise Kept(job)
        return False

    def _chosen(self, first: Job) -> tuple[Job, bool | None]:
        plain = [job for job in self.standing(first.queue, first.tenant) if job.lane == "b"]
        if first.lane == "b" or not plain or plain[0].number > first.number:
            return first, None
        return (plain[0], False) if self.overtakes[first.tenant] >= keys.OVERTAKES else (first, True)

    def _take(self, job: Job, starts: float, overtakes: bool | None) -> Job:
        if overtakes is not None:
            self.overtakes[job.tenant] = self.overtakes[job.tenant] + 1 if overtakes else 0
        turns = self.turns[job.queue]
        turns.following[job.tenant] = starts + job.cost
        self._own(job)
        if self.queue() and starts > turns.clock:
            turns.clock = starts
            turns.finish = {tenant: tag for tenant, tag in turns.finish.items() if tag > starts}
        return job

    def _own(self, job: Job) -> Job:
        job.status, job.attempt, job.kept_by = "running", job.attempt + 1, None
        job.story.append("job.started")
        self.left_queue()
        return job

    def requeue(self, job: Job) -> None:
        self.orphans.add(f"{job.id}/{job.token}")
        job.status, job.token, job.step, job.stands = "queued", None, 0, False
        job.score = job.tag - keys.BEFORE_ALL
        job.story.append("job.restarted")

    def owner_lost(self, job: Job) -> tuple[int, int]:
        """How many are queued again, and how many have failed."""
        if job.cancel:
            self.over(job, "canceled")
            return (0, 0)
        job.failures += 1
        if job.failures < keys.MAX_ATTEMPTS:
            self.requeue(job)
            return (1, 0)
        self.over(job, "failed")
        self.dead.add(job.id)
        return (0, 1)

    def over(self, job: Job, status: str) -> None:
        self.ended[job.tenant, status] += 1
        if job.token and status != "succeeded":
            self.orphans.add(f"{job.id}/{job.token}")
        job.status = status
        job.story.append(f"job.{status}")


class Kept(Exception):
    """A busy worker gets nothing, since it keeps this job for when it holds nothing else."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job


class Scripts(RuleBasedStateMachine):
    """Random legal and illegal calls; `client`, `loop` and `card` are set by the test."""

    client: redis.Redis
    url: str
    loop: asyncio.AbstractEventLoop
    card: ModelCard

    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.losses = Losses()
        self.async_client = self.losses.async_client(self.url)
        self.worker_client = self.losses.client(self.url)
        self.store = JobStore(self.async_client)
        self.ownership = Ownership(self.worker_client)
        self.installation = Installation()
        self.names = {sha1(source(name).encode()).hexdigest(): name for name in RECOGNISED}

    def teardown(self) -> None:
        self.run(self.async_client.aclose())
        self.worker_client.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @initialize(target=ids)
    def an_id_of_nobody(self) -> str:
        return next_id()

    @rule(scripts=st.integers(1, 4))
    def answers_get_lost(self, scripts: int) -> None:
        """Each of the next calls is made twice, and the first answer forgotten: nothing may differ from one call."""
        self.losses.left = scripts

    @rule(number=st.integers(1, 8))
    def a_call_is_said_again_late(self, number: int) -> None:
        """Its answer was lost, and others have had their turn since: whatever they did stays as it is."""
        calls = [call for call in self.losses.calls if call[0][1] in self.names]
        if len(calls) >= number:
            self._say_again(*calls[-number])

    def _say_again(self, command: tuple[Any, ...], answer: Any) -> None:
        _, digest, keys_given, *words = command
        name, words, jobs = self.names[digest], words[int(keys_given) :], self.installation.jobs
        if name == "claim" and words != self._last_claim_of(words[1]):
            # Who asks for the next job has had this answer.
            return
        if not _has_done_it(name, answer):
            return
        self.client.script_load(source(name))
        again, job = self.client.execute_command(*command), jobs.get(words[0])
        match name:
            case "submit" | "retry":
                assert again[:2] == answer[:2]
            case "claim":
                owned = jobs.get(answer[0])
                is_owned = owned is not None and (owned.status, owned.token) == ("running", words[2])
                assert (again and again[:2]) == (answer[:2] if is_owned else None)
            case "finish" | "give_back":
                by = job and (job.given_back if name == "give_back" else job.token)
                assert again == ("done" if by == words[1] else "stale")
            case "cancel":
                is_on = job is not None and job.status == "running"
                over = "missing" if job is None else "canceled" if job.status == "canceled" else "over"
                assert again == ("requested" if is_on else over)
            case "forget":
                assert again == 1

    def _last_claim_of(self, worker: str) -> list[Any]:
        claims = (call[3:] for call, _ in self.losses.calls if self.names.get(call[1]) == "claim")
        return [list(words) for words in claims if words[1] == worker][-1]

    @rule(target=ids, tenant=TENANTS)
    def a_job_is_deleted_before_its_maker_has_heard_of_it(self, tenant: str) -> str:
        job_id = self.submit(tenant, 1, ORDINARY, None, "a")
        said = self.losses.calls[-1]
        self.cancel(job_id, stranger=False)
        self.forget(job_id)
        self._say_again(*said)
        return job_id

    @rule(
        target=ids,
        tenant=TENANTS,
        images=st.sampled_from([1, 1, 4]),
        urgency=URGENCIES,
        key=st.sampled_from([None, None, "k1", "k2"]),
        body=st.sampled_from(["a", "b"]),
    )
    def submit(self, tenant: str, images: int, urgency: Urgency, key: str | None, body: str) -> str:
        spec = resolve(JobRequest(prompt="a circle", seed=1, num_images=images), self.card)
        parameters = NewJob(next_id(), tenant, spec, retention_ms=A_DAY_MS, metadata={}, urgency=urgency)
        answer = self.run(
            self.store.submit(
                parameters, queue_limit=QUEUE_LIMIT, tenant_limit=TENANT_LIMIT, idempotency_key=key, body_hash=body
            )
        )
        known = self.installation.idempotency.get((tenant, key)) if key else None
        if known:
            assert (answer.outcome, answer.id) == ("replayed" if known[1] == body else "conflict", known[0])
        elif refused := self.installation.refusal(tenant):
            assert answer.outcome == refused
        else:
            assert (answer.outcome, answer.id) == ("created", parameters.id)
            self.installation.accept(Job(parameters.id, tenant, cost_of(spec), urgency))
            if key:
                self.installation.idempotency[tenant, key] = (parameters.id, body)
        return answer.id

    @rule(
        target=ids,
        tenants=st.lists(TENANTS, min_size=2, max_size=6),
        images=st.sampled_from([1, 2]),
        urgencies=st.lists(URGENCIES, min_size=6, max_size=6),
    )
    def a_burst(self, tenants: list[str], images: int, urgencies: list[Urgency]) -> Any:
        bursts = zip(tenants, urgencies, strict=False)
        return multiple(*(self.submit(tenant, images, urgency, None, "a") for tenant, urgency in bursts))

    @rule(target=claims, worker=WORKERS, holding=st.sampled_from([0, 0, 2]), hurried=st.booleans())
    def claim(self, worker: str, holding: int, hurried: bool = False) -> Claim | None:
        claim = self.ownership.claim(MODEL, worker, holding=holding, interactive_only=hurried)
        expected = self.installation.claim(worker, holding, hurried)
        assert (claim and claim.id) == (expected and expected.id)
        if claim and expected:
            assert (claim.attempt, claim.failures) == (expected.attempt, expected.failures)
            expected.token, expected.worker = claim.token, worker
        return claim

    @rule(target=claims, worker=WORKERS, seats=st.integers(2, 5), alone=st.booleans())
    def seats_are_taken(self, worker: str, seats: int, alone: bool) -> Any:
        taken = [self.claim(worker, 0 if alone else seat) for seat in range(seats)]
        return multiple(*taken)

    def owned(self, claim: Claim) -> Job | None:
        job = self.installation.jobs.get(claim.id)
        return job if job and job.status == "running" and job.token == claim.token else None

    def said_before(self, claim: Claim, status: str) -> bool:
        job = self.installation.jobs.get(claim.id)
        return job is not None and job.status == status and job.token == claim.token

    @rule(claim=claims)
    def beat(self, claim: Claim | None) -> None:
        if claim:
            job = self.owned(claim)
            expected = Beat.LOST if job is None else Beat.CANCEL if job.cancel else Beat.KEPT
            assert self.ownership.beat([claim]) == [expected]

    @rule(claim=claims, further=st.sampled_from([0, 1, 1]))
    def progress(self, claim: Claim | None, further: int) -> None:
        if claim:
            job = self.owned(claim)
            step = job.step + further if job and job.step else 1
            assert self.ownership.progress(claim, step, 20) == (job is not None)
            if job and step != job.step:
                job.step = step
                job.story.append("job.progress")

    @rule(claim=claims, end=st.sampled_from(TERMINAL))
    def finish(self, claim: Claim | None, end: str) -> None:
        """By the owner, by a zombie, and twice."""
        if not claim:
            return
        says = {
            "succeeded": lambda: self.ownership.succeed(claim, [], timings={}, warnings=[], steps=20),
            "failed": lambda: self.ownership.fail(claim, JobError(slug="numerical-error", detail="x")),
            "canceled": lambda: self.ownership.canceled(claim),
        }
        job, before = self.owned(claim), self.said_before(claim, end)
        assert says[end]() == (job is not None or before)
        if job:
            self.installation.over(job, end)
            job.cancel = job.cancel or end == "canceled"
            assert says[end](), "the same word again, after a broken connection"

    @rule(claim=claims)
    def give_back(self, claim: Claim | None) -> None:
        if claim:
            job, known = self.owned(claim), self.installation.jobs.get(claim.id)
            before = known is not None and known.given_back == claim.token
            assert self.ownership.give_back(claim, "worker-stopped") == (job is not None or before)
            if job:
                job.given_back = claim.token
            if job and job.cancel:
                self.installation.over(job, "canceled")
            elif job:
                self.installation.requeue(job)

    @rule(job_id=ids, stranger=st.sampled_from([False, False, False, True]))
    def cancel(self, job_id: str, stranger: bool) -> None:
        job = self.installation.jobs.get(job_id)
        tenant = "mallory" if stranger or job is None else job.tenant
        answer = self.run(self.store.cancel(job_id, tenant))
        if job is None or job.tenant != tenant:
            assert answer == "missing"
        elif job.status == "queued":
            assert answer == "canceled"
            finish = self.installation.turns[job.queue].finish
            if job.attempt == 0 and tenant in finish:
                finish[tenant] -= job.cost
            self.installation.over(job, "canceled")
            self.installation.left_queue()
        elif job.status == "running":
            assert answer == "requested"
            job.cancel = True
        else:
            assert answer == ("canceled" if job.status == "canceled" else "over")

    @rule(claim=consumes(claims))
    def worker_dies(self, claim: Claim | None) -> None:
        """Its lease runs out and the reaper comes by; the token it leaves behind is consumed."""
        if claim:
            self._lease_runs_out(claim)

    @rule(claim=claims)
    def a_canceled_job_loses_its_worker(self, claim: Claim | None) -> None:
        if claim and self.owned(claim):
            self.cancel(claim.id, stranger=False)
            self._lease_runs_out(claim)

    @rule(claim=claims)
    def worker_is_paused_beyond_its_lease(self, claim: Claim | None) -> None:
        """As a zombie it will still say things."""
        if claim:
            self._lease_runs_out(claim)

    def _lease_runs_out(self, claim: Claim) -> None:
        job = self.owned(claim)
        if job is None:
            return
        self.client.zadd(keys.LEASES, {claim.id: 1}, xx=True)
        self._reap(*self.installation.owner_lost(job), 0)

    @rule(worker=WORKERS)
    def worker_is_gone_for_certain(self, worker: str) -> None:
        """Somebody saw it die. Said again, after a broken connection, it changes nothing."""
        held = [job for job in self.installation.jobs.values() if job.status == "running" and job.worker == worker]
        for job in self.installation.jobs.values():
            job.kept_by = None if job.kept_by == worker else job.kept_by
        verdicts = [self.installation.owner_lost(job) for job in held]
        done = tuple(map(sum, zip(*verdicts, (0, 0), strict=True)))
        # Before the call, which uses up the loss.
        told = (0, 0) if self.losses.left else done
        assert self.ownership.worker_lost(worker) == told
        assert self.ownership.worker_lost(worker) == (0, 0)

    def _reap(self, *done: int) -> None:
        """Whose answer is lost has done it all the same; the second call finds nothing left to do."""
        told = (0, 0, 0) if self.losses.left else done
        assert self.run(self.store.reap())[:3] == told

    @rule(job_id=ids)
    def forget(self, job_id: str) -> None:
        job = self.installation.jobs.get(job_id)
        assert self.run(self.store.forget(job_id)) == (job is None or job.is_terminal)
        if job and job.is_terminal:
            del self.installation.jobs[job_id]
            self.installation.dead.discard(job_id)

    @rule(claim=claims)
    def workers_die_until_it_is_dead(self, claim: Claim | None) -> None:
        while claim and self.owned(claim):
            self._lease_runs_out(claim)
            self.claim("busy", 1)
            claim = self.claim("free", 0)

    @rule(
        target=ids,
        job_id=ids,
        stranger=st.sampled_from([False, False, False, True]),
    )
    def retry(self, job_id: str, stranger: bool) -> str:
        failed = next((each.id for each in self.installation.jobs.values() if each.status == "failed"), job_id)
        tenant = (
            "mallory" if stranger or failed not in self.installation.jobs else self.installation.jobs[failed].tenant
        )
        self._retry(failed, tenant)
        return self._retry(failed, tenant)

    def _retry(self, job_id: str, tenant: str) -> str:
        answer = self.run(self.store.retry(job_id, tenant, queue_limit=QUEUE_LIMIT, tenant_limit=TENANT_LIMIT))
        job = self.installation.jobs.get(job_id)
        if job is None or job.tenant != tenant:
            assert answer.outcome == "missing"
        elif job.status != "failed":
            assert answer.outcome == "not-failed"
        elif job.retried_as in self.installation.jobs:
            assert (answer.outcome, answer.id) == ("replayed", job.retried_as)
        elif refused := self.installation.refusal(tenant):
            assert answer.outcome == refused
        else:
            assert answer.outcome == "created"
            job.retried_as = answer.id
            self.installation.dead.discard(job_id)
            self.installation.accept(Job(answer.id, tenant, job.cost, job.urgency))
        return answer.id

    @rule()
    def the_script_cache_is_flushed(self) -> None:
        self.client.script_flush()

    @rule()
    def a_foreign_hand_empties_rqs_list(self) -> None:
        waiting = len(self.installation.queue())
        self.client.delete(LIST)
        self._reap(0, 0, waiting)

    @invariant()
    def redis_agrees(self) -> None:
        installation, jobs = self.installation, list(self.installation.jobs.values())
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.zrange(f"{keys.QUEUED}{MODEL}", 0, -1, withscores=True)
            for queue in (MODEL, f"batch:{MODEL}"):
                pipeline.zrange(f"{keys.TURNS}{queue}", 0, -1, withscores=True)
                pipeline.zrange(f"{keys.NEXT_TURN}{queue}", 0, -1, withscores=True)
                pipeline.hget(f"{keys.CLOCK}{queue}", "now")
            pipeline.lrange(LIST, 0, -1)
            pipeline.zrange(keys.LEASES, 0, -1)
            pipeline.zrange(keys.ORPHANS, 0, -1)
            pipeline.zrange(keys.DEAD, 0, -1)
            pipeline.zrange(keys.EXPIRY, 0, -1)
            for job in jobs:
                pipeline.hmget(keys.JOB + job.id, "status", "attempt", "failures")
                pipeline.xrange(keys.EVENTS + job.id)
            queued, *found = pipeline.execute()
        turns, (listed, leases, orphans, dead, expiry), rest = found[:6], found[6:11], found[11:]
        assert queued == [(job.id, job.score) for job in installation.queue()], "whose turn it is"
        for of, (finish, following, clock) in zip(installation.turns.values(), (turns[:3], turns[3:]), strict=True):
            assert (dict(finish), dict(following), float(clock or 0)) == (of.finish, of.following, of.clock)
        assert sorted(listed) == sorted(job_id for job_id, _ in queued)
        assert set(leases) == {job.id for job in jobs if job.status == "running"}
        assert (set(orphans), set(dead)) == (installation.orphans, installation.dead)
        assert set(expiry) == {job.id for job in jobs if job.is_terminal}
        for job, record, story in zip(jobs, rest[::2], rest[1::2], strict=True):
            assert record == [job.status, str(job.attempt), str(job.failures)]
            told = [fields["event"] for _, fields in story]
            assert told == job.story
            assert sum(event.removeprefix("job.") in TERMINAL for event in told) == int(job.is_terminal)
            assert all(json.loads(fields["data"]) is not None for _, fields in story)

    @invariant()
    def each_end_is_counted_once(self) -> None:
        """Of what tenants have used, in the order of USAGE_COUNTERS."""
        counted = Counter[tuple[str, str]]()
        for key in self.client.keys(f"{keys.USAGE}*"):
            for tenant, text in self.client.hgetall(key).items():
                for name, number in zip(USAGE_COUNTERS[:3], text.split(), strict=False):
                    counted[tenant, name] += int(number)
        assert +counted == self.installation.ended

    @invariant()
    def nothing_is_left_of_nothing(self) -> None:
        if all(job.is_terminal for job in self.installation.jobs.values()):
            names = (keys.QUEUED, keys.TURNS, keys.NEXT_TURN, keys.STANDING, keys.CLOCK)
            kept = {f"{name}{queue}" for name in names for queue in (MODEL, f"batch:{MODEL}")} | {LIST, keys.LEASES}
            assert self.client.exists(*kept) == 0
            assert [key for key in self.client.scan_iter("rq:*") if ":job:" in key or "exec" in key] == []
            assert list(self.client.scan_iter(f"{keys.OPEN}*")) == []


def _has_done_it(name: str, answer: Any) -> bool:
    """What changed nothing may do so now: it is a call that came late."""
    if name in ("submit", "retry"):
        return bool(answer[0] == "created")
    if name == "forget":
        return bool(answer == 1)
    return answer not in (None, "stale", "missing")


@pytest.fixture
def machine(
    redis_client: redis.Redis, valkey_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Scripts]]:
    monkeypatch.setattr("app.contract.redis.store.new_job_id", next_id)
    # Leases run out when a rule says so: a machine that stands still for 30 s would be a finding otherwise.
    monkeypatch.setattr(keys, "LEASE_MS", A_DAY_MS)
    monkeypatch.setattr(keys, "SAID_MS", A_DAY_MS)
    # A tenant has too few jobs here for seven.
    monkeypatch.setattr(keys, "OVERTAKES", 2)
    source.cache_clear()
    loop = asyncio.new_event_loop()
    yield type("Machine", (Scripts,), {"client": redis_client, "url": valkey_url, "loop": loop, "card": card})
    loop.close()
    source.cache_clear()


def test_every_interleaving_agrees_with_the_model(machine: type[Scripts]) -> None:
    play(machine, examples=100)
