"""What a worker says of itself with each beat, for whoever watches over the service. No decision is made by it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class WorkerNote(BaseModel):
    """As it was at the last beat."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field(description="Of Darkroom")
    device: str = Field(description="Where it computes: cpu, cuda:0, and the name of a GPU")
    seats: int = Field(ge=0, description="Pictures it draws at the same time")
    free_seats: int = Field(ge=0)
    jobs: int = Field(ge=0, description="Jobs that it holds, those that are being stored included")
    rows_per_second: float = Field(
        ge=0, description="Rows of the denoiser's batches between its last two beats, by the time between them"
    )
    activity: str = Field(max_length=120, description="What it was at: idle, or what its device computed")
    uptime_seconds: float = Field(ge=0, description="Since it began to take jobs")
