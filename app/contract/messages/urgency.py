"""How urgent a job is: whether somebody waits for it, and until when its result is wanted.

Declared once, for requests and records. Refuses to know queues: what comes first is for the claim to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from app.contract.messages.request_body import RequestBody

Priority = Literal["interactive", "batch"]

LEAST_DEADLINE, MOST_DEADLINE = 0.1, 86_400.0
"""Seconds. What has more than a day is a batch job."""


class UrgentBody(RequestBody):
    """What every request for a job may say of it."""

    priority: Priority = Field(
        default="interactive",
        description="interactive: somebody waits for it. batch: it can wait; it goes behind your interactive jobs, and"
        " may be put aside for interactive ones while it is drawn. Its pictures are the same",
    )
    deadline: float | None = Field(
        default=None,
        ge=LEAST_DEADLINE,
        le=MOST_DEADLINE,
        allow_inf_nan=False,
        description="Seconds after the job was accepted by which it should be over. Of your jobs the one with the"
        " earliest deadline goes first. One that is missed is done all the same, and `deadline_met` says so",
    )

    @field_validator("deadline")
    @classmethod
    def _needs_somebody_who_waits(cls, deadline: float | None, info: ValidationInfo) -> float | None:
        if deadline is not None and info.data.get("priority") == "batch":
            raise PydanticCustomError("not_with_batch", "goes without priority batch: what can wait has no deadline")
        return deadline

    @property
    def urgency(self) -> Urgency:
        return Urgency(self.priority, None if self.deadline is None else round(self.deadline * 1000))


@dataclass(frozen=True, slots=True)
class Urgency:
    """`deadline_ms`: milliseconds after the job was accepted, None without a deadline."""

    priority: Priority = "interactive"
    deadline_ms: int | None = None

    def fields(self) -> dict[str, str | int]:
        """Of the record. One that says nothing of it is interactive, without a deadline: so are those of before."""
        fields: dict[str, str | int] = {} if self.priority == "interactive" else {"priority": self.priority}
        return fields if self.deadline_ms is None else fields | {"deadline_ms": self.deadline_ms}


ORDINARY: Final = Urgency()
