"""Whoever says how well pictures fit what is expected of them. A protocol only: it is handed to the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from worker.engine.request import Request


class Judge(Protocol):
    """In the engine's thread, and without waiting for the device where that can be."""

    def __call__(self, pictures: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """Score and probability of each of `pictures`, uint8 [B, H, W, 3] on the device, for the request at its place:
        float32 [B, 2] there. The higher the score, the better; a probability is 0 to 1."""
        ...

    def describe(self, request: Request) -> Mapping[str, Any]:
        """Who judges, and what its pictures are judged by, as JSON has it."""
        ...

    def rehearse(self, pictures: torch.Tensor) -> None:
        """Look at pictures that are nobody's: kernels are loaded before memory is measured."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one picture. None for what is not a number."""

    score: float | None
    probability: float | None

    @classmethod
    def of(cls, row: Sequence[float]) -> Self:
        score, probability = (None if math.isnan(value) else float(value) for value in row)
        return cls(score, probability)
