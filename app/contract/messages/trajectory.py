"""Which steps of a picture are kept to be looked at: what a job's record says, and what a request may.

Knows shapes. Refuses to know what latents are and how large they get.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.request_body import RequestBody

Shown = Literal["noisy", "estimate"]
"""Latents as they stand after a step, and what the model takes for the finished picture there."""

Decode = Literal["linear", "vae"]
"""How frames are made of latents: by a linear map to colours, or by the model's autoencoder."""

BOTH: Final[tuple[Shown, ...]] = ("noisy", "estimate")


class Trajectory(BaseModel):
    """The latents after every so many model evaluations, the first noise and the last step among them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    every: int = 1
    show: tuple[Shown, ...] = BOTH
    decode: Decode = "linear"


class AskedTrajectory(RequestBody):
    """Keep the steps of each picture."""

    every: int = Field(default=1, ge=1, le=10_000, description="After every so many model evaluations")
    show: Annotated[list[Shown], Field(min_length=1, max_length=2)] = Field(
        default=list(BOTH), description="The latents as they stand, the model's estimate of the finished picture"
    )
    decode: Decode = Field(default="linear", description="How frames are made of latents; vae: exact, and dear")
