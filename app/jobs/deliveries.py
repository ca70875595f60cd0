"""Tries at webhook messages, as the API shows them.

Knows shapes. Refuses to know how a message is delivered.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from app.contract.redis.outbox import Delivery
from app.jobs.schemas import timestamp


class DeliveryView(BaseModel):
    """One try at a webhook message, or the reason why none was made."""

    webhook_id: str = Field(description="The same for every try of one event, as the receiver sees it")
    event: str
    number: int = Field(description="1 for the first try")
    outcome: Literal["delivered", "failed", "exhausted", "disabled"]
    status: int | None = Field(description="HTTP status of the answer, if there was one")
    detail: str
    at: str
    took_seconds: float
    next_at: str | None = Field(description="When the next try is due")

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        return cls(
            **delivery.model_dump(exclude={"at_ms", "took_ms", "next_ms"}),
            at=timestamp(delivery.at_ms),
            took_seconds=delivery.took_ms / 1000,
            next_at=None if delivery.next_ms is None else timestamp(delivery.next_ms),
        )


class DeliveryList(BaseModel):
    """The last hundred tries made for a job, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
