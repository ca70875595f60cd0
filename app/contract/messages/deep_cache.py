"""Whether deep features of the model are kept between evaluations: what a job's record says, and what a request may.

Knows shapes. Refuses to know what a feature is, and which models have some to keep.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.request_body import RequestBody

MOST_INTERVAL: Final = 10
"""Evaluations from one of the whole model to the next. The paper goes up to 20, and finds pictures worse beyond 5."""


class Cache(BaseModel):
    """After an evaluation of the whole model, `interval` - 1 of its outermost layers with what the inner ones said
    then: DeepCache (Ma et al. 2023, arXiv 2312.00858). 1: all are of the whole model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    interval: int = 1


class AskedCache(RequestBody):
    """Keep what the model's inner layers say for a few evaluations, and compute only the outermost ones meanwhile
    (DeepCache). Faster, and another picture."""

    interval: int = Field(
        ge=1, le=MOST_INTERVAL, description="Every so many evaluations are of the whole model; 1: all of them"
    )


def interval_of(cache: Cache | None) -> int:
    """Evaluations from one of the whole model to the next."""
    return 1 if cache is None else cache.interval
