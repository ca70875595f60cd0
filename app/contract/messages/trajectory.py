"""Which steps of a picture are kept to be looked at: what a job's record says, and what a request may.

Knows shapes. Refuses to know what latents are and how large they get.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.contract.messages.request_body import RequestBody

Shown = Literal["noisy", "estimate"]
"""Latents as they stand after a step, and what the model takes for the finished picture there."""

Decode = Literal["linear", "vae"]
"""How frames are made of latents: by a linear map to colours, or by the model's autoencoder."""

BOTH: Final[tuple[Shown, ...]] = ("noisy", "estimate")

MOST_STEPS: Final = 256
"""Of one trajectory, the first noise and the last step among them: a film of that is ten seconds."""

MOST_BYTES: Final = 128 * 1024 * 1024
"""That the trajectories of one job take in the worker's memory: nineteen pictures of 512 pixels with 100 steps each."""

MOST_BYTES_OF_ONE: Final = 60 * 1024 * 1024
"""The same of one trajectory: clients of ours take files of 64 MiB."""

MOST_PICTURES: Final = 64
"""Of a job with a trajectory. Of more, there would be no more than a few steps of each."""

MOST_PREVIEWS: Final = 64
"""Of one picture that are kept. With 50 steps each can be; of more, every second or third is: nobody looks at more."""


WHOLE_MS: Final = 4_000
FRAME_MS: Final = (60, 400)
"""The steps of a film take about WHOLE_MS together, each within these bounds: GIF players show frames shorter than
20 ms at 100 ms."""

LAST_MS: Final = 2_500


def durations(frames: int) -> list[int]:
    """Milliseconds for every frame of a film: the steps run, the picture stays. GIF counts in steps of ten."""
    shortest, longest = FRAME_MS
    each = min(longest, max(shortest, WHOLE_MS // max(1, frames - 1))) // 10 * 10
    return [each] * (frames - 1) + [LAST_MS]


class Trajectory(BaseModel):
    """The latents after every so many model evaluations, the first noise and the last step among them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    every: int = 1
    show: tuple[Shown, ...] = BOTH
    decode: Decode = "linear"


def decoded_frames(asked: Trajectory | None, steps: int) -> int:
    """Frames of one picture that the autoencoder makes, about: as many evaluations as steps."""
    if asked is None or asked.decode != "vae":
        return 0
    return len(asked.show) * min(MOST_STEPS, steps // asked.every + 1)


class AskedTrajectory(RequestBody):
    """Keep the steps of each picture: all that were asked for, as long as there are no more than 256 of each, they take
    no more than 60 MiB, and those of a job 128 MiB; else every second, third and so on, and a warning."""

    every: int = Field(default=1, ge=1, le=10_000, description="After every so many model evaluations")
    show: Annotated[list[Shown], Field(min_length=1, max_length=2)] = Field(
        default=list(BOTH), description="The latents as they stand, the model's estimate of the finished picture"
    )
    decode: Decode = Field(default="linear", description="How frames are made of latents; vae: exact, and dear")

    @model_validator(mode="after")
    def _shows_each_once(self) -> Self:
        if len(set(self.show)) < len(self.show):
            raise PydanticCustomError("said_twice", "show names the same twice")
        return self
