"""What a row costs: the floating point operations of one UNet evaluation. Counted, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def row_flops(unet: Any, latent_shape: tuple[int, int, int], conditioning: Mapping[str, torch.Size]) -> float:
    """Of one row of that latent shape. On the meta device, where tensors have shapes and no values.

    A UNet that is no torch module is taken to cost as much as its latents are large.
    """
    if not isinstance(unet, torch.nn.Module):
        return float(torch.Size(latent_shape).numel())
    dtype = next(unet.parameters()).dtype
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes = {name: torch.empty(1, *shape, dtype=dtype) for name, shape in conditioning.items()}
        context = shapes.pop("encoder_hidden_states")
        added = {"added_cond_kwargs": shapes} if shapes else {}
        _without_values(unet)(
            torch.empty(1, *latent_shape, dtype=dtype), torch.empty(1), encoder_hidden_states=context, **added
        )
    return float(counter.get_total_flops())


def _without_values(unet: torch.nn.Module) -> torch.nn.Module:
    """The same layers on the meta device. deepcopy asks its memo first, so no weight is ever copied."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in unet.buffers()}
    for parameter in unet.parameters():
        memo[id(parameter)] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    return copy.deepcopy(unet, memo)
