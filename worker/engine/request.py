"""A request as the engine sees it: what decides the pixels, how many pictures, how often to show them, and its name.

Knows the limits that are declared with the parameters. Refuses to know models and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field

from app.contract.messages.series import SeriesSpec
from app.contract.messages.spec import MAX_SEED, PARAMETERS, JobSpec, PictureSpec, seed_of
from app.contract.messages.trajectory import Trajectory
from app.contract.messages.urgency import Priority


class Request(SeriesSpec, PictureSpec):
    """One job, whose pictures have seeds of their own (`seed_of`). More may be drawn than are kept, where somebody
    judges.

    Raises ValueError for a value out of its declared limits the moment it is built. Sides are in pixels.
    A `reproducible` one is denoised alone, in batches of one fixed size: the same bits whoever else is drawn, on one
    machine.
    After every `preview_every` model evaluations a Preview of each picture is reported; 0 means none. With
    `keep_previews` they are kept for the finished picture as well; `trajectory` is what else is kept of its steps.
    One of the priority batch can wait: beside others it steps less often, and its pictures are the same.
    What depends on the model, such as its schedulers, is checked when the request takes a seat.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    preview_every: int = 0
    keep_previews: bool = False
    trajectory: Trajectory | None = None
    priority: Priority = "interactive"
    pictures: Mapping[str, Any] = Field(default={}, repr=False)
    """Of every picture that the request names, by its sha256, the pixels: a numpy array, uint8 [H, W, 3 or 4]."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        for name, parameter in PARAMETERS.items():
            if name in type(self).model_fields:
                parameter.check(name, getattr(self, name))
        if self.seed + self.most_drawn - 1 > MAX_SEED:
            raise ValueError(f"the last seed must be below 2^63, not {self.seed} + {self.most_drawn - 1}")
        if self.num_images > self.drawn:
            raise ValueError(f"best_of must be at least num_images, not {self.best_of}")

    @classmethod
    def of(
        cls,
        id: str,
        spec: JobSpec,
        pictures: Mapping[str, Any] | None = None,
        *,
        priority: Priority = "interactive",
    ) -> Self:
        """The request that a job's spec makes, under the name by which events are to speak of it. Raises ValueError."""
        own = cls.model_fields.keys() & JobSpec.model_fields.keys()
        return cls(id=id, pictures=pictures or {}, priority=priority, **{name: getattr(spec, name) for name in own})

    def without_pictures(self) -> Self:
        """Its pixels take tens of megabytes."""
        return self.model_copy(update={"pictures": {}})

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`: consecutive ones, or one for all on a way between two embeddings."""
        return seed_of(self, index)

    @property
    def is_guided(self) -> bool:
        """At a scale of 1 the unconditional output cancels out; below, diffusers does without it as well."""
        return self.guidance_scale > 1
