"""What a row is made of: the tensors that condition one line of a denoiser's batch, and what rows that may share a
step have in common.

Data only, with names and shapes. Knows no prompt, no seat and no step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

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

    latent_shape: tuple[int, int, int]
    conditioning: tuple[tuple[str, torch.Size], ...]
    mode: Mode = Mode.SHARED


def key_of(latent_shape: tuple[int, int, int], conditional: Conditions, mode: Mode) -> LaneKey:
    return LaneKey(latent_shape, tuple((name, tensor.shape) for name, tensor in conditional.items()), mode)
