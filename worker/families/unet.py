"""diffusers' UNet2DConditionModel as the engine's denoiser, and the only place that calls it.

Knows which tensors of a row are arguments of their own, which are `added_cond_kwargs` and which are channels. Knows no
prompt and no picture.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from worker.models.need import row_bytes

ADDED = frozenset({"text_embeds", "time_ids"})
"""Names of row tensors that go into `added_cond_kwargs`: SDXL's pooled text and sizes."""

CHANNELS = ("mask", "masked_image_latents")
"""Names of row tensors that enter as channels behind the latents', in this order: of a UNet trained for inpainting."""


class UNet(torch.nn.Module):
    """A Denoiser (worker/engine/rows.py) whose row tensors have the names of the network's arguments."""

    def __init__(self, unet: Any, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.unet = unet
        self.dtype = dtype
        self.device = device

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        known = ADDED.union(CHANNELS)
        arguments: dict[str, Any] = {name: tensor for name, tensor in rows.items() if name not in known}
        if added := {name: tensor for name, tensor in rows.items() if name in ADDED}:
            arguments["added_cond_kwargs"] = added
        entering = [x.to(self.dtype), *(rows[name] for name in CHANNELS if name in rows)]
        output: torch.Tensor = self.unet(torch.cat(entering, 1), t, **arguments, return_dict=False)[0]
        # A network that predicts a variance as well has it in the channels behind.
        return output[:, : x.shape[1]]

    def in_float32(self) -> UNet:
        """Itself, or a copy that takes twice the memory."""
        if self.dtype == torch.float32:
            return self
        return UNet(copy.deepcopy(self.unet).float(), dtype=torch.float32, device=self.device)

    def row_bytes(self, latent_shape: tuple[int, int, int]) -> float:
        return row_bytes(self.unet.config, *latent_shape[1:], self.dtype.itemsize)
