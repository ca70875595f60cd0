"""What a row costs: the floating point operations of one evaluation. Counted, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from worker.engine.deep import Depth, deep_shape
from worker.engine.rows import Denoiser, LatentShape


def row_flops(
    denoiser: Denoiser, latent_shape: LatentShape, conditioning: Mapping[str, torch.Size], depth: Depth = Depth.WHOLE
) -> float:
    """Of one row of that latent shape. On the meta device, where tensors have shapes and no values.

    A denoiser without weights of torch's is taken to cost as much as its latents are large.
    """
    if not isinstance(denoiser, torch.nn.Module) or next(denoiser.parameters(), None) is None:
        return float(torch.Size(latent_shape).numel())
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        rows = {name: torch.empty(1, *shape, dtype=denoiser.dtype) for name, shape in conditioning.items()}
        own, x, t = _without_values(denoiser), torch.empty(1, *latent_shape), torch.empty(1)
        if depth is Depth.OUTER:
            own.outer(x, t, rows, torch.empty(1, *deep_shape(denoiser, latent_shape), dtype=denoiser.dtype))
        else:
            own(x, t, rows)
    return float(counter.get_total_flops())


def _without_values(denoiser: torch.nn.Module) -> Any:
    """The same layers on the meta device. deepcopy asks its memo first, so no weight is ever copied."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in denoiser.buffers()}
    for parameter in denoiser.parameters():
        memo[id(parameter)] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    return copy.deepcopy(denoiser, memo)
