"""What a solver's update is made of, and what of it a step can do without.

An update is a handful of elementwise multiplications and additions, on a lone small picture some forty kernels that
cost what they cost to launch. Most samples rescale nothing, keep nothing and draw nothing.
Knows numbers of samples and tensors. Knows no seat, and not whether a step is captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.table import BLOCK, CONDITIONAL, Numbers


@dataclass(frozen=True, slots=True)
class Update:
    """Which parts of it somebody in the step needs. Leaving out what nobody does changes no number: what is left out
    would be multiplied by zero, or not chosen.

    `columns`: of the blocks, in their order. `rescales`, `keeps`: there is guidance to be rescaled (guidance.py), and
    what stays of a picture (keep.py).
    """

    columns: tuple[int, ...]
    rescales: bool
    keeps: bool

    @classmethod
    def of(cls, blocks: Numbers, rescale: Numbers, *, keeps: bool) -> Update:
        """For samples with these `blocks` [samples, *BLOCK], of which each is rescaled as far as `rescale` [samples]
        says."""
        columns = np.flatnonzero(blocks.any((0, 1))).tolist()
        # Of nobody's samples nothing is needed, but their sum has to have a shape.
        return cls(tuple(columns) or (CONDITIONAL,), bool(rescale.any()), keeps)


ALL_OF_IT = Update(tuple(range(BLOCK[1])), rescales=True, keeps=True)
"""Where the work has to be the same for whatever samples come: in a graph."""


def combine(blocks: torch.Tensor, columns: Sequence[int], values: Sequence[torch.Tensor]) -> torch.Tensor:
    """[samples, registers + x0, ...]: each new register as the sum of `values`, [samples, ...] each, that its row of
    the block, [samples, registers + x0, all columns], says; `values` are those of the `columns`.

    No matrix product: TF32 would shift results by 1 % of the standard deviation, and elementwise arithmetic is the same
    in any company.
    """
    coefficients = blocks.unflatten(2, (-1, 1, 1, 1))
    first, *others = columns
    new = coefficients[:, :, first] * values[0].unsqueeze(1)
    for column, value in zip(others, values[1:], strict=True):
        new = torch.addcmul(new, coefficients[:, :, column], value.unsqueeze(1))
    return new
