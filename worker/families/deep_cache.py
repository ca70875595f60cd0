"""The outermost layers of diffusers' UNet2DConditionModel as a network of their own, around features of the rest.

What is left out lies between the first convolution and the last layer of the last up block: branch 0, the default of
DeepCache (Ma et al. 2023, arXiv 2312.00858). The network's own forward is run, on a shell that has its parts and none
of the inner blocks. Knows the blocks. Refuses to know rows, seats, and when features are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from worker.models.configs import outer_channels


class OuterLayers:
    """Those of one UNet, whose weights they share. One call at a time."""

    def __init__(self, unet: Any) -> None:
        last = unet.up_blocks[-1]
        self._entry = last.resnets[-1]
        self._channels = outer_channels(unet.config)
        self._below = _Below()
        self._shell = _with_parts(
            unet,
            down_blocks=torch.nn.ModuleList(),
            mid_block=self._below,
            up_blocks=torch.nn.ModuleList([_last_layer(last)]),
        )

    def keeping(self, call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What a call of the whole network returns, and its features, [B, channels, h, w]."""
        kept: list[torch.Tensor] = []

        def note(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            kept.append(inputs[0][:, : self._channels])

        with self._entry.register_forward_pre_hook(note):
            output = call()
        return output, kept[0]

    def __call__(self, x: torch.Tensor, t: torch.Tensor, deep: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """As the network is called, with its features in the place of its inner layers."""
        self._below.features = deep
        try:
            output: torch.Tensor = self._shell(x, t, **arguments, return_dict=False)[0]
        finally:
            self._below.features = None
        return output


class _Below(torch.nn.Module):
    """In the place of the middle block: whatever it is handed, it says what the features are."""

    features: torch.Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        assert self.features is not None, "This is a bug: outer layers without features."
        return self.features


def _last_layer(block: Any) -> Any:
    """Of an up block that enlarges nothing."""
    lists = {name: part for name, part in block.named_children() if name in ("resnets", "attentions")}
    return _with_parts(block, **{name: torch.nn.ModuleList(part[-1:]) for name, part in lists.items()})


def _with_parts(module: Any, **parts: torch.nn.Module) -> Any:
    """A module of the same class and weights, with other parts in the place of its own."""
    shell = copy.copy(module)
    shell._modules = module._modules | parts
    return shell
