"""What a row is made of, the network that takes rows, and what rows that may share a step have in common.

A row is one line of the network's batch: latents, a timestep, and the tensors that condition it. Knows names and
shapes. Knows no prompt, no seat and no step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

CONTEXT = "encoder_hidden_states"

Conditions = Mapping[str, torch.Tensor]
"""What one row of the UNet is conditioned on, by the UNet's names: encoder_hidden_states [tokens, width], and whatever
goes into added_cond_kwargs. Empty where there is no such row."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the rows of a request are conditioned on. Unguided requests have nothing in the second one; where there is
    something, both contexts are equally long. Their length, a multiple of the model's context_length, is part of the
    lane."""

    conditional: Conditions
    unconditional: Conditions
    warnings: tuple[str, ...]


class Denoiser(Protocol):
    """A network that reads noise out of latents, for rows of different jobs at different timesteps in one call.

    A torch module wherever its floating point operations should be counted or its steps captured. What its rows are
    made of, how its words enter it, extra channels and residuals are its own affair.
    """

    dtype: torch.dtype
    """Of its rows' tensors."""

    device: torch.device

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], /) -> torch.Tensor:
        """The prediction, [B, C, h, w], for float32 latents x [B, C, h, w], scaled as the network wants them, timesteps
        t float32 [B], and row tensors [B, ...] by name. Must not ask the device for anything."""
        ...

    def in_float32(self) -> Denoiser: ...

    def row_bytes(self, latent_shape: tuple[int, int, int], /) -> float:
        """That one row of latents (C, h, w) needs beside the weights."""
        ...


class Mode(Enum):
    """How a sample wants to be denoised."""

    SHARED = "shared"
    """In any company, with the rows that are there."""

    REPRODUCIBLE = "reproducible"
    """In batches of one fixed size, so that every kernel is the same in any company."""

    RESCUE = "rescue"
    """Alone and in float32, after NaN in company."""


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What samples of one lane have in common. `latent_shape` is (C, h, w)."""

    denoiser: Denoiser
    latent_shape: tuple[int, int, int]
    conditioning: tuple[tuple[str, torch.Size], ...]
    mode: Mode = Mode.SHARED


def key_of(
    denoiser: Denoiser, latent_shape: tuple[int, int, int], conditional: Conditions, mode: Mode = Mode.SHARED
) -> LaneKey:
    return LaneKey(denoiser, latent_shape, tuple((name, tensor.shape) for name, tensor in conditional.items()), mode)
