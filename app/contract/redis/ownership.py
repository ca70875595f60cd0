"""The worker's half of the contract: take a job, keep it, and say how it ended. Every call carries the token.

Synchronous, because the threads of a worker call it. Knows nothing of how a picture is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import BlockedPicture, JobError, Picture, Selection, new_token
from app.contract.messages.kept_spec import read_stored
from app.contract.messages.questions import Question, Result, read_question
from app.contract.messages.spec import JobSpec, pictures_of
from app.contract.messages.urgency import ORDINARY, Priority, Urgency
from app.contract.messages.usage import Work
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys
from app.contract.redis.keys import RECORD_VERSION, SUSPECT_AFTER, WORD
from app.contract.redis.scripts import source


class Beat(StrEnum):
    """What a heartbeat learns about one job."""

    KEPT = "kept"
    LOST = "lost"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one job, owned by whoever knows the token."""

    id: str
    token: str
    spec: JobSpec
    attempt: int
    failures: int
    traceparent: str
    waited_ms: int = 0
    """Since it was accepted, by Redis' clock."""
    watched_ms: int = 0
    """For so long somebody is believed to watch it yet; 0: nobody does."""
    tenant: str = ""
    """Whose it is, and whose pictures it is drawn from."""
    question: Question | None = None
    """What is asked, by a job that draws nothing: its spec has no picture."""
    urgency: Urgency = ORDINARY

    @property
    def pictures(self) -> Sequence[InputPicture]:
        """Every picture that came in and that is needed."""
        return self.question.pictures if self.question is not None else pictures_of(self.spec)

    @property
    def runs_alone(self) -> bool:
        """It has lost so many workers that nobody should share one with it."""
        return self.failures >= SUSPECT_AFTER


@dataclass(frozen=True, slots=True)
class StepsDone:
    """`step` of `steps` model evaluations of the job are done, and it is in this `stage`, if it has any."""

    claim: Claim
    step: int
    steps: int
    stage: str | None = None


SCRIPTS = (
    "claim", "pass_on", "beat", "progress", "preview", "finish", "give_back", "announce", "leave", "starting",
    "worker_lost",
)  # fmt: skip


class Ownership:
    """Redis scripts as a worker calls them. `client` must decode responses.

    Every method raises redis.RedisError while Redis is away and may then be called again: the scripts recognise what
    they have already done.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = {name: client.register_script(source(name)) for name in SCRIPTS}
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._unanswered: dict[str, tuple[str, str]] = {}

    def announce(
        self,
        card: ModelCard,
        worker: str,
        *,
        ready_in: float | None = None,
        is_taken_up: bool = False,
        note: WorkerNote | None = None,
    ) -> bool:
        """Say what this worker serves, and that it is alive. True if an operator wants it to take no more and leave.

        `ready_in`: seconds after which it could have the model in memory, None if it has. `is_taken_up`: it is about to
        load it, see ModelDemand. `note` is what it says of itself.
        """
        ms = "" if ready_in is None else round(ready_in * 1000)
        about = note.model_dump_json() if note else ""
        args = [card.name, worker, card.model_dump_json(), ms, int(is_taken_up), about]
        return bool(self._scripts["announce"](args=args))

    def starting(self, worker: str, sentence: str) -> None:
        """Say what a worker is at that cannot be announced yet; an empty sentence ends it."""
        self._scripts["starting"](args=[worker, sentence])

    def is_announced(self, model: str, worker: str) -> bool:
        """Has it said that it serves the model, and not left since? Not whether it still lives."""
        return self._redis.zscore(keys.ALIVE + model, worker) is not None

    def what_it_is_at(self, worker: str) -> str:
        """What a worker has said while it could not be announced yet; empty if it has not, or is."""
        told: Any = self._redis.hget(keys.STARTING, worker)
        return str(told or "").partition(" ")[2]

    def worker_lost(self, worker: str, because: str = "") -> tuple[int, int]:
        """Judge the jobs of a worker that has gone for certain, as the reaper would once their leases are over:
        (requeued, failed). `because` is a sentence for those that fail.
        """
        requeued, failed = self._scripts["worker_lost"](args=[worker, because])
        return int(requeued), int(failed)

    def leave(self, model: str, worker: str) -> None:
        """Take this worker off the list of the living."""
        self._scripts["announce"](args=[model, worker, ""])

    def leave_drained(self, models: Sequence[str], worker: str) -> bool:
        """Take it off for all of them, if an operator still wants it to leave. False if that was taken back: nothing
        has changed."""
        return bool(self._scripts["leave"](args=[worker, *models]))

    def claim(self, model: str, worker: str, *, holding: int = 0, interactive_only: bool = False) -> Claim | None:
        """Own the model's next job, or None if there is none for a worker that holds so many already. With
        `interactive_only` none either if the next is a batch job.

        After an error it asks with the token that has no answer yet: the job that was perhaps claimed is the one that
        comes. So a worker must not claim in two threads at once.
        """
        unanswered = self._unanswered.pop(worker, None)
        token = unanswered[0] if unanswered else new_token()
        return self._claim(model, worker, token, holding, int(interactive_only))

    def _claim(self, model: str, worker: str, token: str, *how: int) -> Claim | None:
        """`how` are the last arguments of claim.lua."""
        try:
            answer = self._scripts["claim"](args=[model, worker, token, RECORD_VERSION, *how])
        except redis.RedisError:
            self._unanswered[worker] = token, model
            raise
        if answer is None:
            return None
        job_id, spec, attempt, failures, traceparent, waited, tenant, task, question, watched, *urgency = answer
        counts, asked = (int(attempt), int(failures)), read_question(task, json.loads(question)) if task else None
        times = int(waited), int(watched)
        how_urgent = _urgency(*urgency)
        return Claim(job_id, token, read_stored(spec), *counts, traceparent, *times, tenant, asked, how_urgent)

    def give_back_unanswered(self, worker: str) -> None:
        """Before the worker leaves: a job that a claim has taken, and whose answer was lost, is nobody else's until its
        lease is over. It is queued again, and the attempt not held against it. A claim that never came to Redis takes
        nothing any more."""
        if unanswered := self._unanswered.pop(worker, None):
            token, model = unanswered
            if claim := self._claim(model, worker, token, 0, 0, 1):
                self.give_back(claim, "worker-stopped")

    def hear(self, worker: str, *, seconds: float) -> str | None:
        """Wait until this worker is told that a job can be claimed: of which model. None when the time is up.

        It is told once after each claim that found the queue empty. Whoever hears it asks, or passes it on. May be
        called beside `claim`.
        """
        word = self._redis.bzpopmin(WORD + worker, timeout=seconds)
        return cast("str", word[1]) if word else None

    def pass_on(self, model: str) -> None:
        """What `hear` said, for another worker: this one cannot ask."""
        self._scripts["pass_on"](args=[model])

    def beat(self, claims: list[Claim]) -> list[Beat]:
        """Extend the leases of all jobs in flight; what was learned of each, in their order."""
        if not claims:
            return []
        args = [part for claim in claims for part in (claim.id, claim.token)]
        answers = self._scripts["beat"](args=args)
        return [Beat(answer) for answer in answers]

    def steps_done(self, news: Sequence[StepsDone]) -> list[int]:
        """Note how far jobs are, one round trip for all. Answers for how many ms somebody is believed to watch each of
        them yet: 0 if nobody does, -1 if the job is no longer ours."""
        each_in_words = ((each.claim.id, each.claim.token, each.step, each.steps, each.stage or "") for each in news)
        args = [word for words in each_in_words for word in words]
        return [int(left) for left in self._scripts["progress"](args=args)]

    def progress(self, claim: Claim, step: int, steps: int, stage: str | None = None) -> bool:
        """The same of one job. False if it is no longer ours."""
        return self.steps_done([StepsDone(claim, step, steps, stage)]) != [-1]

    def preview(self, claim: Claim, index: int, step: int, steps: int, jpeg: str) -> bool:
        """Show how picture `index` looks after `step` of `steps` model evaluations: `jpeg` is base64.

        Replaces the picture's earlier preview; one that is too large is left out. False if the job is no longer ours.
        """
        return bool(self._scripts["preview"](args=[claim.id, claim.token, index, step, steps, jpeg]))

    def succeed(
        self,
        claim: Claim,
        pictures: list[Picture],
        *,
        timings: dict[str, float],
        warnings: list[str],
        steps: int,
        blocked: Sequence[BlockedPicture] = (),
        selection: Selection | None = None,
        work: Work | None = None,
        resumed_at_step: int = 0,
    ) -> bool:
        """The pictures are in the store under their keys, but those that are `blocked`. `selection` says what they were
        chosen from; `work` what they took, here and below; `resumed_at_step` where they were gone on with. False if the
        job is no longer ours."""
        images = json.dumps([picture.model_dump() for picture in pictures])
        fields: list[str | int] = ["images", images, "timings", json.dumps(timings), "warnings", json.dumps(warnings)]
        fields += ["step", steps, "steps", steps, "resumed_at_step", resumed_at_step]
        fields += [*_not_shown(blocked)]
        fields += ["selection", selection.model_dump_json()] if selection else []
        kept = {"pictures": len(pictures), "stored_bytes": sum(picture.stored_bytes for picture in pictures)}
        return self._finish(claim, Status.SUCCEEDED, {"images": len(pictures)}, fields, _counted(work, **kept))

    def answered(
        self, claim: Claim, result: Result, *, timings: dict[str, float], warnings: list[str], work: Work | None = None
    ) -> bool:
        """The question of a job that draws nothing has this answer. False if the job is no longer ours."""
        fields: list[str | int] = ["result", result.model_dump_json(), "timings", json.dumps(timings)]
        fields += ["warnings", json.dumps(warnings), "step", 1, "steps", 1]
        return self._finish(claim, Status.SUCCEEDED, {"images": 0}, fields, _counted(work))

    def fail(
        self, claim: Claim, error: JobError, *, blocked: Sequence[BlockedPicture] = (), work: Work | None = None
    ) -> bool:
        """End the job for a reason of its own. False if it is no longer ours."""
        fields: list[str | int] = ["error", error.model_dump_json(), *_not_shown(blocked)]
        return self._finish(claim, Status.FAILED, {"error": error.model_dump()}, fields, _counted(work))

    def canceled(self, claim: Claim, *, work: Work | None = None) -> bool:
        """The cancel that was asked for has happened. False if the job is no longer ours."""
        return self._finish(claim, Status.CANCELED, {}, ["cancel", 1], _counted(work))

    def give_back(self, claim: Claim, reason: str, *, work: Work | None = None) -> bool:
        """Put the job at the front of its queue, without holding the attempt against it."""
        args = [claim.id, claim.token, reason, _counted(work)]
        return bool(self._scripts["give_back"](args=args) == "done")

    def _finish(
        self, claim: Claim, status: Status, data: dict[str, object], fields: list[str | int], counted: str
    ) -> bool:
        args = [claim.id, claim.token, status.value, json.dumps(data), counted, *fields]
        return bool(self._scripts["finish"](args=args) == "done")


def _counted(work: Work | None, **kept: int) -> str:
    """What the scripts add to the caller's day."""
    return json.dumps((work or Work()).counted(**kept))


def _urgency(priority: str, deadline_ms: str) -> Urgency:
    return Urgency(cast(Priority, priority or "interactive"), int(deadline_ms) if deadline_ms else None)


def _not_shown(blocked: Sequence[BlockedPicture]) -> list[str | int]:
    """The field of the record, where there are any."""
    return ["blocked", json.dumps([picture.model_dump() for picture in blocked])] if blocked else []
