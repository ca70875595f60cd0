"""Points of the space of image embeddings, and ways between them: what a request to an unCLIP model is drawn from.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents", section 3: variations of a
picture, interpolations between two, and text differences. Knows vectors. Refuses to know networks: who makes a point of
a picture or a text hands it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from app.contract.messages.unclip import ImageEmbedding, Point, numbers_of
from worker.engine.errors import GenerationFailed
from worker.engine.request import Request

EMBEDDING = "image_embedding"
"""The name in a picture's record of the vector that it was drawn from. Others are what that is compared with."""

PARALLEL = 1e-4
"""The sine of an angle below which two vectors span no plane."""


def asked_of(request: Request) -> ImageEmbedding:
    """What the request is drawn from: its prompt, unless it says more."""
    return request.image_embedding or ImageEmbedding(text=request.prompt)


def texts_of(request: Request) -> list[str]:
    """The texts that the prior makes points of, in their order."""
    return [point.text for point in asked_of(request).points if point.text is not None]


def pictures_of(request: Request) -> list[str]:
    """The sha256 of the pictures that are points."""
    return [point.of.sha256 for point in asked_of(request).points if point.of is not None]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Points:
    """What the embeddings of a request's pictures are made of, float32 [D] each on the device.

    `known`: its points, None for those that the prior makes for each picture. `difference`: the direction that two
    texts lie in from each other, of length 1. `beside`: what an embedding is compared with, by its name in the record.
    """

    asked: ImageEmbedding
    known: Sequence[torch.Tensor | None]
    difference: torch.Tensor | None = None
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def from_pictures(self) -> bool:
        """One point at least is none of the prior's."""
        return any(point is not None for point in self.known)

    def embedding(self, index: int, made: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of the picture of that place in its job. `made` are the prior's points, in their order."""
        its = iter(made)
        points = [next(its) if point is None else point for point in self.known]
        if self.asked.at is None:
            return points[0]
        at = self.asked.at[index]
        if self.difference is not None:
            return slerp(points[0], points[0].norm() * self.difference, at)
        return slerp(points[0], points[1], at)


def slerp(a: torch.Tensor, b: torch.Tensor, at: float) -> torch.Tensor:
    """On the great circle from a to b (Shoemake 1985, "Animating Rotation with Quaternion Curves"), [D] each: at 0 and
    at 1 exactly a and b, also if their lengths differ. Between parallel ones the straight way."""
    if at in (0.0, 1.0):
        return a if at == 0.0 else b
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    sine = torch.sin(angle)
    of_a = torch.where(sine > PARALLEL, torch.sin((1 - at) * angle) / sine, 1 - at)
    of_b = torch.where(sine > PARALLEL, torch.sin(at * angle) / sine, at)
    return of_a * a + of_b * b


def difference(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The direction from one text's embedding to another's, of length 1 (section 3.3). Raises GenerationFailed for
    texts that are the same to the model. Waits for the device."""
    direction = after / after.norm() - before / before.norm()
    length = direction.norm()
    if not float(length) > PARALLEL:
        raise GenerationFailed("The two texts of image_embedding.diff are the same to this model: there is no way.")
    return direction / length


def vector_of(point: Point, dimensions: int) -> torch.Tensor:
    """A point that is asked for by its numbers, float32 [D] on the host. Raises GenerationFailed for another number of
    dimensions."""
    numbers = numbers_of(point.vector or "")
    if len(numbers) != dimensions:
        raise GenerationFailed(f"This model draws from embeddings of {dimensions} numbers, not of {len(numbers)}.")
    return torch.tensor(numbers, dtype=torch.float32)
