"""A job on its way into Redis: what the submitter knows of it, and so what needs no reading once it is in.

Knows the fields of the record. Refuses to know how they are written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.input_id import input_id
from app.contract.messages.job import Record, cost_of_job
from app.contract.messages.kept_spec import stored
from app.contract.messages.params import OwedWebhook, Webhook
from app.contract.messages.questions import Question
from app.contract.messages.spec import JobSpec, pictures_of
from app.contract.messages.urgency import ORDINARY, Urgency


@dataclass(frozen=True, slots=True)
class NewJob:
    """Everything the record starts with. `card` is the model's, and part of what decides the cost.

    A job that asks a `question` draws nothing: its spec is `no_picture`.
    """

    id: str
    tenant: str
    spec: JobSpec
    retention_ms: int
    metadata: dict[str, str]
    webhook: Webhook | None = None
    traceparent: str = ""
    card: ModelCard | None = None
    question: Question | None = None
    requested_model: str = ""
    """The other name by which the model was asked for, if it was."""
    urgency: Urgency = ORDINARY

    @property
    def cost(self) -> float:
        return cost_of_job(self.spec, self.question, self.card)

    @property
    def inputs(self) -> list[str]:
        """Ids of the pictures that came in and that it needs."""
        pictures = self.question.pictures if self.question is not None else pictures_of(self.spec)
        return sorted({input_id(self.tenant, picture.sha256) for picture in pictures})

    def fields(self) -> dict[str, str | int]:
        """Record fields that only the submitter knows; the script adds ids, status and times."""
        fields: dict[str, str | int] = {
            "spec": stored(self.spec),
            "metadata": json.dumps(self.metadata),
            "retention_ms": self.retention_ms,
            "seats": max(1, self.spec.drawn),
            "traceparent": self.traceparent,
            **self.urgency.fields(),
        }
        if self.question is not None:
            fields |= {"task": self.question.task, "question": self.question.model_dump_json()}
        if self.requested_model:
            fields["requested_model"] = self.requested_model
        if self.inputs:
            fields["inputs"] = " ".join(self.inputs)
        if self.webhook:
            fields |= {
                "webhook": self.webhook.model_dump_json(exclude={"headers"}),
                "webhook_events": json.dumps(self.webhook.events),
            }
            if self.webhook.headers:
                # A field of its own: processes of earlier versions refuse a webhook with a member they do not know.
                fields["webhook_headers"] = json.dumps(self.webhook.headers)
        return fields

    def accepted(self, created_ms: int, position: int | None) -> Record:
        """The record as Redis has it once the job is in: nothing in it is news to the submitter but these two."""
        return Record(
            id=self.id,
            tenant=self.tenant,
            model=self.spec.model,
            requested_model=self.requested_model,
            status=Status.QUEUED,
            spec=self.spec,
            task=self.question.task if self.question is not None else "draw",
            question=self.question,
            attempt=0,
            created_ms=created_ms,
            metadata=self.metadata,
            priority=self.urgency.priority,
            deadline_ms=self.urgency.deadline_ms,
            webhook=self.webhook and OwedWebhook.model_validate(self.webhook.model_dump(exclude={"headers"})),
            webhook_headers=self.webhook.headers if self.webhook else {},
            position=position,
        )
