"""May this job come in? Checks the parameters, and turns every reason against it into an answer with a name.

Knows limits, pace and idempotency. Refuses to know HTTP beyond the errors it raises.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from app.contract.messages.card import ModelCard
from app.contract.messages.from_pictures import references_of
from app.contract.messages.input_id import input_id
from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.job import Record, new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.params import JobRequest, ParamError, ParamsRejected, refuse_not_taken, resolve
from app.contract.messages.question_requests import QuestionRequest
from app.contract.messages.questions import Question, Task, no_picture
from app.contract.messages.served import ServedModel
from app.contract.messages.spec import JobSpec
from app.contract.redis.quota import Budget
from app.contract.redis.store import JobStore, Retrial, Submission
from app.edge.auth import Caller
from app.edge.bodies import Body
from app.edge.errors import (
    IdempotencyKeyReused,
    InvalidHeader,
    JobDeleted,
    JobNotFound,
    JobNotRetryable,
    QueueFull,
    TooManyJobs,
)
from app.edge.limiter import budget_for_jobs, counted, fits, too_dear_now
from app.edge.problem import Problem
from app.edge.tracing import note_job, traceparent_for_record
from app.jobs.model_choice import ModelChoice, refuse_if_away, refuse_if_closed
from app.jobs.model_registry import ModelRegistry, retry_after
from app.jobs.references import References
from app.jobs.room import Room
from app.outbound.address import WebhookRefused
from app.pictures.errors import PictureStoreError
from app.settings import Settings

log = structlog.get_logger()

ROOM = 0.01
"""Part of a full queue that should be free again when a refused client comes back."""

REFUSALS = (Problem, ParamsRejected, PictureStoreError)
"""What a request may meet today that was let in yesterday."""

AnyRequest = JobRequest | QuestionRequest

CheckWebhook = Callable[[str], object]
"""Raises WebhookRefused for a URL that must not be called."""

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job that a request led to; `replayed` if an earlier request with the same key had brought it in."""

    record: Record
    replayed: bool


class Admission:
    """The one way in."""

    def __init__(
        self,
        store: JobStore,
        registry: ModelRegistry,
        settings: Settings,
        models: ModelChoice,
        *,
        room: Room,
        references: References,
        check_webhook: CheckWebhook,
    ) -> None:
        self._store = store
        self._room = room
        self._references = references
        self._registry = registry
        self._settings = settings
        self._models = models
        self._check_webhook = check_webhook

    async def submit(
        self,
        request: AnyRequest,
        caller: Caller,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        is_awaited: bool = False,
        body: Body | None = None,
    ) -> Admitted:
        """Bring a job in, or find the one that an equal request brought in before. `is_awaited` says that its caller
        stays for the pictures: then a model that nobody serves is refused, instead of a wait for nobody knows how long.
        `body` has the pictures that were taken out of the request.

        Raises ParamsRejected and the problems of errors.py; redis.RedisError while the queue is away.
        """
        key = _hashed(idempotency_key) if idempotency_key else None
        hashed = body_hash(request) if idempotency_key else ""
        try:
            model = await self._models.choose(request.model, _task_of(request))
            refuse_if_closed(model)
            if is_awaited:
                refuse_if_away(model)
            submission = await self._submit(request, model, caller, key, hashed, traceparent, body)
        except REFUSALS:
            # Models, room and limits may have changed since the key's job came in: they are no reason to deny it.
            known = await self._store.known(caller.tenant, key, hashed) if key else None
            if known is None:
                raise
            submission = known
        if submission.outcome == "conflict":
            raise IdempotencyKeyReused("This Idempotency-Key was used for a request with another body.")
        record, replayed = submission.record, submission.outcome == "replayed"
        if record is None:
            raise JobDeleted("The job of this Idempotency-Key has been deleted: use a new key for a new job.")
        log.info("job accepted", job_id=record.id, model=record.model, replayed=replayed)
        note_job(record)
        return Admitted(record, replayed)

    async def brought_in(self, idempotency_key: str, caller: Caller) -> Record | None:
        """The job that this key brought in before, by whatever body; None for a new key, and if it was deleted."""
        # No body has an empty hash: what a known key answers is which job it belongs to.
        known = await self._store.known(caller.tenant, _hashed(idempotency_key), "")
        return await self._store.get(known.id, caller.tenant) if known else None

    async def _submit(
        self,
        request: AnyRequest,
        model: ServedModel,
        caller: Caller,
        key: str | None,
        hashed: str,
        traceparent: str | None,
        body: Body | None,
    ) -> Submission:
        """Created, replayed or conflict; every other outcome is raised."""
        self._judge_webhook(request)
        await self._room.look()
        if isinstance(request, JobRequest):
            served = (await self._registry.models()).values()
            refuse_not_taken(request.__dict__, model.card, [each.card for each in served])
        pictures = await self._references.find(_references_of(request), caller.tenant, body)
        spec, question = _resolved(request, model.card, pictures)
        traceparent = traceparent_for_record(traceparent)
        job = NewJob(
            id=new_job_id(self._settings.cell),
            tenant=caller.tenant,
            spec=spec,
            question=question,
            retention_ms=self._settings.retention_ms,
            metadata=request.metadata,
            webhook=request.webhook,
            traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else "",
            card=model.card,
            requested_model=request.model if request.model and request.model != model.card.name else "",
            urgency=request.urgency,
        )
        terms = self._terms(caller, job.cost)
        submission = await self._store.submit(job, idempotency_key=key, body_hash=hashed, **terms.limits())
        if submission.outcome == "input-gone":
            raise ParamsRejected(_gone(submission.id, pictures, caller.tenant))
        if submission.outcome not in ("created", "replayed", "conflict"):
            raise terms.refusal(submission, model)
        return submission

    async def retry(self, record: Record, caller: Caller) -> Admitted:
        """A failed job once more, as a new job with the same parameters and the drawn seed; asked twice, it is one job.

        Raises JobNotRetryable, JobNotFound and the problems of a full queue.
        """
        try:
            again = await self._retry(record, caller)
        except REFUSALS:
            # As above: what was run again before is not denied for want of room.
            known = await self._store.retried(record.id)
            if known is None:
                raise
            again = known
        if again.outcome == "not-failed":
            raise JobNotRetryable(f"The job is {record.status.value}: only a failed one can be run again.")
        if again.outcome == "content-blocked":
            raise JobNotRetryable("Its pictures were flagged, and the same seed would draw the same: send another one.")
        new = await self._store.get(again.id, caller.tenant)
        if again.outcome == "missing" or new is None:
            raise JobNotFound
        log.info("job retried", job_id=new.id, retry_of=record.id)
        note_job(new)
        return Admitted(new, again.outcome == "replayed")

    async def _retry(self, record: Record, caller: Caller) -> Retrial:
        """Every outcome but a full queue, which is raised, like a model that is gone."""
        model = (await self._registry.models(record.model)).get(record.model)
        if model is None:
            raise JobNotRetryable(f"The operator has forgotten its model {record.model}: nobody would draw it.")
        refuse_if_closed(model)
        terms = self._terms(caller, record.cost(model.card))
        await self._room.look()
        again = await self._store.retry(record.id, caller.tenant, cell=self._settings.cell, **terms.limits())
        if again.outcome == "input-gone":
            raise JobNotRetryable("A picture that it was drawn from is not kept any more: send it again in a new job.")
        if again.outcome in ("queue-full", "tenant-full", "rate-limited"):
            raise terms.refusal(again, model)
        return again

    def _judge_webhook(self, request: AnyRequest) -> None:
        if request.webhook is None:
            return
        try:
            self._check_webhook(request.webhook.url)
        except WebhookRefused as error:
            raise ParamsRejected([ParamError("/webhook/url", "webhook_refused", str(error))]) from error

    def _terms(self, caller: Caller, cost: float) -> Terms:
        """Raises ParamsRejected for a job that this key can never bring in."""
        budget = budget_for_jobs(caller)
        if not fits(cost, budget):
            allowed = budget.allowed if budget else 0
            detail = f"the job costs {counted(cost)} megapixel steps, and this key has {allowed} a minute"
            raise ParamsRejected([ParamError("", "too_much_work", detail)])
        tenant_limit = min(self._settings.tenant_limit, caller.jobs or sys.maxsize)
        return Terms(cost, self._settings.queue_limit, tenant_limit, budget)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a job may come in, and what a refusal of each says."""

    cost: float
    queue_limit: int
    tenant_limit: int
    budget: Budget | None

    def limits(self) -> dict[str, Any]:
        """As JobStore's methods take them."""
        return {"queue_limit": self.queue_limit, "tenant_limit": self.tenant_limit, "budget": self.budget}

    def refusal(self, answer: Submission | Retrial, model: ServedModel) -> Problem:
        """What to say to an outcome that means: not now."""
        if answer.outcome == "queue-full":
            detail = f"{self.queue_limit} jobs wait for this model already."
            return QueueFull(detail, headers=_when_there_is_room(model, self.queue_limit))
        if answer.outcome == "tenant-full":
            detail = f"{self.tenant_limit} of your jobs are not over yet: wait for some or cancel some."
            return TooManyJobs(detail, headers=_when_there_is_room(model, self.tenant_limit))
        if self.budget is None or answer.left is None:
            raise AssertionError(f"{answer.outcome} without a limit that says so. This is a bug.")
        return too_dear_now(self.cost, self.budget, answer.left)


def _when_there_is_room(model: ServedModel, limit: int) -> dict[str, str]:
    return {"Retry-After": str(retry_after(model.room_in_seconds(max(1, int(limit * ROOM)))))}


def _gone(gone: str, pictures: Mapping[str, InputPicture], tenant: str) -> list[ParamError]:
    """Where a picture was named that went between being found and being needed."""
    detail = "was deleted in this moment: send it again"
    where = [pointer for pointer, picture in pictures.items() if input_id(tenant, picture.sha256) == gone]
    return [ParamError(pointer, "input_not_found", detail) for pointer in where]


def _task_of(request: AnyRequest) -> Task:
    return request.task if isinstance(request, QuestionRequest) else "draw"


def _references_of(request: AnyRequest) -> Iterator[tuple[str, ImageReference]]:
    return request.references() if isinstance(request, QuestionRequest) else references_of(request)


def _resolved(
    request: AnyRequest, card: ModelCard, pictures: Mapping[str, InputPicture]
) -> tuple[JobSpec, Question | None]:
    """What is to be drawn, or no picture and the question. Raises ParamsRejected."""
    if isinstance(request, QuestionRequest):
        question = request.question(card, pictures)
        return no_picture(question), question
    return resolve(request, card, pictures), None


def body_hash(request: AnyRequest) -> str:
    """The same for two bodies that ask for the same, however they are written.

    Defaults are left out, so that a release that adds a field does not change what an older body hashes to.
    """
    parameters = json.dumps(request.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(parameters.encode()).hexdigest()


def valid_idempotency_key(values: list[str]) -> str | None:
    """The one Idempotency-Key among the header's values, if any. Raises InvalidHeader."""
    if not values:
        return None
    if len(values) > 1:
        raise InvalidHeader("Idempotency-Key must be sent once.")
    key = values[0]
    if not 1 <= len(key) <= 255 or any(ord(char) < 32 or ord(char) == 127 for char in key):
        raise InvalidHeader("Idempotency-Key must have 1 to 255 characters, none of them a control character.")
    return key


def _hashed(key: str) -> str:
    # The caller's text never becomes part of a Redis key, and a key that is a secret is not kept.
    return hashlib.sha256(key.encode()).hexdigest()
