"""What a row is made of, the network that takes rows, and what rows that may share a step have in common.

A row is one line of the network's batch: latents, a timestep, and the tensors that condition it. Knows names and
shapes. Knows no prompt, no seat and no step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import torch

LatentShape = tuple[int, int, int]
"""(C, h, w)"""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Some:
    """A tensor that only some samples of a lane have, or have more of than others.

    `values` is [most, ...], of one shape and type for all samples of a denoiser. Its first `used` count; the others are
    zeros, which have to mean none.
    """

    values: torch.Tensor
    used: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rows:
    """What the rows of a sample are conditioned on: tensors without the batch's dimension, by the denoiser's names.

    `unconditional` is empty where the sample takes one row; where it is not, its tensors have the shapes of the
    conditional ones. `some` is what both rows have and the rows of others may lack: samples with and without it share
    a lane. A step gives the denoiser as much of it as the sample with the most uses, and a step in which nobody has it
    does not give the name at all, so that it costs nothing there.
    """

    conditional: Mapping[str, torch.Tensor]
    unconditional: Mapping[str, torch.Tensor] = field(default_factory=dict)
    some: Mapping[str, Some] = field(default_factory=dict)

    @property
    def is_guided(self) -> bool:
        """It takes two rows in each step."""
        return bool(self.unconditional)

    def with_both(self, tensors: Mapping[str, torch.Tensor]) -> Rows:
        """With these tensors in both rows."""
        unconditional = {**self.unconditional, **tensors} if self.is_guided else self.unconditional
        return replace(self, conditional={**self.conditional, **tensors}, unconditional=unconditional)

    @property
    def shapes(self) -> tuple[tuple[str, torch.Size], ...]:
        """Of what every row of the lane has."""
        return tuple((name, tensor.shape) for name, tensor in self.conditional.items())


class Denoiser(Protocol):
    """A network that reads noise out of latents, for rows of different jobs at different timesteps in one call.

    A torch module wherever its floating point operations should be counted or its steps captured. What its rows are
    made of, how its words enter it, extra channels and residuals are its own affair.
    """

    dtype: torch.dtype
    """Of its rows' tensors."""

    device: torch.device

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], /) -> torch.Tensor:
        """The prediction, [B, C, h, w], or [B, 2C, h, w] with one of the variance behind it, for float32 latents x
        [B, C, h, w], scaled as the network wants them, timesteps t float32 [B], and row tensors [B, ...] by name. Must
        not ask the device for anything."""
        ...

    def in_float32(self) -> Denoiser: ...

    def row_bytes(self, latent_shape: LatentShape, /) -> float:
        """That one row of such latents needs beside the weights."""
        ...


class Mode(Enum):
    """How a sample wants to be denoised."""

    SHARED = "shared"
    """In any company, with the rows that are there."""

    REPRODUCIBLE = "reproducible"
    """Alone in a batch of one fixed size, so that every kernel is the same, and works in the same place."""

    RESCUE = "rescue"
    """Alone and in float32, after NaN in company."""


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What samples of one lane have in common. `conditioning` are the shapes of their rows' tensors, by name."""

    denoiser: Denoiser
    latent_shape: LatentShape
    conditioning: tuple[tuple[str, torch.Size], ...]
    mode: Mode = Mode.SHARED
