"""diffusers' UNet2DConditionModel as the engine's denoiser, and the only place that calls it.

Knows which tensors of a row are arguments of their own, which are `added_cond_kwargs`, which are channels and which are
the residuals that ControlNets add to its skip connections. Knows no prompt and no picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch

from worker.engine.rows import LatentShape
from worker.families.deep_cache import OuterLayers
from worker.families.lora_bank import LoraBank
from worker.models.configs import outer_channels
from worker.models.need import row_bytes

ADDED = frozenset({"text_embeds", "time_ids", "image_embeds"})
"""Names of row tensors that go into `added_cond_kwargs`: SDXL's pooled text and sizes; an image embedding."""

CHANNELS = ("mask", "masked_image_latents")
"""Names of row tensors that enter as channels behind the latents', in this order: of a UNet trained for inpainting."""

READ_BY_CONTROLNETS = ADDED | {"encoder_hidden_states"}
"""Names of the row tensors that the stock pipelines hand to a ControlNet as well."""

RESIDUAL = "residual_"
"""With a number behind it, a row tensor that is added to a skip connection; the last one to the middle of the UNet."""


class UNet(torch.nn.Module):
    """A Denoiser (worker/engine/rows.py) whose row tensors have the names of the network's arguments, beside those that
    choose from a `bank` of adapters."""

    def __init__(self, unet: Any, *, dtype: torch.dtype, device: torch.device, bank: LoraBank | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.dtype = dtype
        self.device = device
        self._bank = bank

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._asked(x, rows, lambda entering, arguments: self._whole(entering, t, arguments))

    def deep_shape(self, latent_shape: LatentShape) -> LatentShape | None:
        """As DeepDenoiser has it (worker/engine/deep.py), like the two that follow."""
        channels = outer_channels(self.unet.config)
        return None if channels is None else (channels, *latent_shape[1:])

    def keeping(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._outer_layers.keeping(lambda: self.forward(x, t, rows))

    def outer(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], deep: torch.Tensor
    ) -> torch.Tensor:
        return self._asked(x, rows, lambda entering, arguments: self._outer_layers(entering, t, deep, **arguments))

    def _asked(
        self,
        x: torch.Tensor,
        rows: Mapping[str, torch.Tensor],
        call: Callable[[torch.Tensor, dict[str, Any]], torch.Tensor],
    ) -> torch.Tensor:
        """What `call` says, of the channels that enter and the arguments beside."""
        entering = [x.to(self.dtype), *(rows[name] for name in CHANNELS if name in rows)]
        with self._bank.serving(rows) if self._bank else nullcontext(rows) as own:
            # There is no default for a context: those that read none want None.
            channels = torch.cat(entering, 1) if len(entering) > 1 else entering[0]
            return call(channels, {"encoder_hidden_states": None} | as_arguments(own))

    def _whole(self, entering: torch.Tensor, t: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
        output: torch.Tensor = self.unet(entering, t, **arguments, return_dict=False)[0]
        return output

    @cached_property
    def _outer_layers(self) -> OuterLayers:
        return OuterLayers(self.unet)

    def in_float32(self) -> UNet:
        """Itself, or a copy that takes twice the memory."""
        if self.dtype == torch.float32:
            return self
        unet = copy.deepcopy(self.unet).float()
        return UNet(unet, dtype=torch.float32, device=self.device, bank=self._bank)

    def row_bytes(self, latent_shape: tuple[int, int, int]) -> float:
        return row_bytes(self.unet.config, *latent_shape[1:], self.dtype.itemsize)


def as_arguments(rows: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Row tensors as the arguments of diffusers' network, those that enter as channels aside."""
    own = {name: tensor for name, tensor in rows.items() if name not in CHANNELS and not name.startswith(RESIDUAL)}
    arguments: dict[str, Any] = {name: tensor for name, tensor in own.items() if name not in ADDED}
    if added := {name: tensor for name, tensor in own.items() if name in ADDED}:
        arguments["added_cond_kwargs"] = added
    if count := sum(name.startswith(RESIDUAL) for name in rows):
        *down, middle = (rows[f"{RESIDUAL}{k}"] for k in range(count))
        arguments |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return arguments


def as_residuals(down: Sequence[torch.Tensor], middle: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a ControlNet says, as row tensors."""
    return {f"{RESIDUAL}{k}": residual for k, residual in enumerate([*down, middle])}
