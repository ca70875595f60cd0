"""Low-rank adapters side by side in one network, chosen by each row of its batch (Hu et al. 2021, "LoRA"; as S-LoRA,
Sheng et al. 2023, does for language models).

Each layer that any adapter changes has two more matrices, `down` [columns, in, *kernel] and `up` [columns, out], in
which an adapter of rank r has r columns of its own. A row says which columns it takes and how much of each, and gets

    base(x) + (x @ down[columns].T * scales) @ up[columns]

so that rows with other adapters, with several and with none go through one call. Column 0 is zeros, of which a row
without an adapter takes what others have more: nothing is added to it. Buffers stay where they are and are copied into:
a captured graph reads what is in them when it is replayed.

Knows layers and columns. Knows no files and no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from worker.engine.transfer import to_device
from worker.models.lora_file import Factors

COLUMNS, SCALES = "lora_columns", "lora_scales"
"""Names of the row tensors: int64 [n], and [n] of the network's type."""

NONE = 0
"""The column that adds nothing."""

SIZES = (16, 32, 64, 128)
"""Columns of a row are filled up to one of these, or to a multiple of the last: a graph is captured for each."""


def filled_up(columns: int) -> int:
    return next((size for size in SIZES if size >= columns), -(-columns // SIZES[-1]) * SIZES[-1])


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Columns and scales [B, n] of the rows that are added to: `which` of a batch, int64 [B]; None for all of it."""

    columns: torch.Tensor
    scales: torch.Tensor
    which: torch.Tensor | None = None

    @classmethod
    def of(cls, columns: torch.Tensor, scales: torch.Tensor) -> _Rows:
        """On a GPU all rows are added to, maybe nothing: who has an adapter is known there alone, and asking would hold
        the host up and could not be captured. A CPU can be asked, and is spared the others."""
        if columns.device.type != "cpu" or bool(columns.any(1).all()):
            return cls(columns, scales)
        which = columns.any(1).nonzero().flatten()
        return cls(columns[which], scales[which], which)


class LoraBank:
    """The matrices of all layers. One step at a time: the rows of a call are told apart from its arguments."""

    def __init__(self, network: torch.nn.Module, paths: Iterable[str], *, columns: int) -> None:
        """Adds to `network` what the layers at `paths` need. `columns` is how many there are, column 0 included."""
        self.columns = columns
        self._device = next(network.parameters()).device
        self.rows: _Rows | None = None
        self._layers = {path: _Layer(self, network.get_submodule(path)) for path in paths}
        for path, layer in self._layers.items():
            network.get_submodule(path).register_forward_hook(layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoraBank:
        """A copy of the network in float32 uses the same: what is put in later is in there too."""
        return self

    @property
    def nbytes(self) -> int:
        return sum(layer.down.nbytes + layer.up.nbytes for layer in self._layers.values())

    @contextmanager
    def serving(self, rows: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """Calls of the network inside are for these rows, of which those that are left are its arguments."""
        self.rows = _Rows.of(rows[COLUMNS], rows[SCALES]) if COLUMNS in rows else None
        try:
            yield {name: tensor for name, tensor in rows.items() if name not in (COLUMNS, SCALES)}
        finally:
            self.rows = None

    def put(self, columns: Sequence[int], factors: Mapping[str, Factors]) -> None:
        """An adapter into columns of its own; a layer that it does not change, or by a smaller rank, is zeros there."""
        index = to_device(torch.tensor(columns), self._device)
        for path, layer in self._layers.items():
            layer.put(index, factors.get(path))


class _Layer:
    """A forward hook of a linear layer or a convolution."""

    def __init__(self, bank: LoraBank, module: Any) -> None:
        weight = module.weight
        self._bank = bank
        self.down = weight.new_zeros(bank.columns, *weight.shape[1:])
        self.up = weight.new_zeros(bank.columns, weight.shape[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Layer:
        return self

    def put(self, columns: torch.Tensor, factors: Factors | None) -> None:
        for own, factor in zip((self.down, self.up), factors or (None, None), strict=True):
            own.index_fill_(0, columns, 0)
            if factor is not None:
                values = to_device(factor.to(own.dtype), own.device).reshape(-1, *own.shape[1:])
                own.index_copy_(0, columns[: len(values)], values)

    def __call__(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        rows = self._bank.rows
        if rows is None:
            return None
        if rows.which is None:
            return self._added(module, inputs[0], output, rows)
        own = self._added(module, inputs[0].index_select(0, rows.which), output.index_select(0, rows.which), rows)
        return output.index_copy_(0, rows.which, own)

    def _added(self, module: Any, x: torch.Tensor, output: torch.Tensor, rows: _Rows) -> torch.Tensor:
        # The network may be a copy in float32.
        down, up = (each.index_select(0, rows.columns.flatten()).to(x.dtype) for each in (self.down, self.up))
        down, up = (each.unflatten(0, rows.columns.shape) for each in (down, up))
        add = _add_to_convolution if isinstance(module, torch.nn.Conv2d) else _add_to_linear
        return add(module, x, output, down, up, rows.scales.to(x.dtype))


def _add_to_linear(
    module: Any, x: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """x [B, ..., in], output [B, ..., out]; down [B, n, in], up [B, n, out], scales [B, n]."""
    inner = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), down.transpose(1, 2)) * scales.unsqueeze(1)
    return torch.baddbmm(output.reshape(len(x), -1, output.shape[-1]), inner, up).view_as(output)


def _add_to_convolution(
    module: Any, x: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """x [B, in, H, W], output [B, out, h, w]; down [B, n, in, *kernel], up [B, n, out], scales [B, n].

    The output keeps its layout in memory: other kernels further down would change bits of rows that get nothing.
    """
    rows, n = scales.shape
    if module.kernel_size == module.stride == (1, 1):
        inner = torch.bmm(down.flatten(2), x.flatten(2))
    else:
        # One convolution for each row: as groups of channels of a single picture.
        one = functional.conv2d(
            x.reshape(1, -1, *x.shape[2:]), down.flatten(0, 1), None, module.stride, module.padding, groups=rows
        )
        inner = one.view(rows, n, -1)
    inner = inner * scales.unsqueeze(2)
    if output.is_contiguous():
        return torch.baddbmm(output.flatten(2), up.transpose(1, 2), inner).view_as(output)
    tokens = torch.baddbmm(output.flatten(2).transpose(1, 2), inner.transpose(1, 2), up)
    return tokens.transpose(1, 2).unflatten(2, output.shape[2:])


@contextmanager
def adapted(network: torch.nn.Module, adapters: Sequence[tuple[Mapping[str, Factors], float]]) -> Iterator[None]:
    """While the context lasts, linear layers of `network` have these adapters with their weights, for every row alike:
    what a text encoder needs, which is called for one set of them at a time. No weight is changed."""
    hooks = [
        network.get_submodule(path).register_forward_hook(_adding(network, factors, weight))
        for layers, weight in adapters
        for path, factors in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(network: torch.nn.Module, factors: Factors, weight: float) -> Callable[..., torch.Tensor]:
    dtype, device = next((each.dtype, each.device) for each in network.parameters())
    down, up = (to_device(factor.to(dtype).contiguous(), device) for factor in factors)

    def add(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + weight * (inputs[0] @ down.flatten(1).T @ up)

    return add
