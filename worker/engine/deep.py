"""Deep features of a denoiser, kept for the next evaluations: DeepCache (Ma et al. 2023, arXiv 2312.00858).

Knows which evaluations of a sample are of the whole network, and what a denoiser has to offer for the others. Refuses
to know networks, and where features are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Protocol, runtime_checkable

import torch

from worker.engine.rows import Denoiser, LatentShape


class Depth(Enum):
    """How much of the network an evaluation is of."""

    WHOLE = "whole"

    KEEPING = "keeping"
    """All of it, and its deep features are kept."""

    OUTER = "outer"
    """The outermost layers, around the features that were kept."""


def depth_at(evaluation: int, *, interval: int, phase: int) -> Depth:
    """Every `interval`-th evaluation is of the whole network, and so is the first one.

    `phase` says which of them: samples of several phases have theirs at different times. It has to be a sample's own,
    such as its seed: were it chosen by who else is there, the same request would not draw the same picture.
    """
    if interval == 1:
        return Depth.WHOLE
    return Depth.KEEPING if evaluation == 0 or (evaluation + phase) % interval == 0 else Depth.OUTER


def keeps_some(evaluations: int, *, interval: int, phases: Iterable[int]) -> bool:
    """Whether any evaluation of the samples of these phases is of the outermost layers only."""
    return any(
        depth_at(evaluation, interval=interval, phase=phase) is Depth.OUTER
        for phase in phases
        for evaluation in range(evaluations)
    )


@runtime_checkable
class DeepDenoiser(Denoiser, Protocol):
    """One whose deep features may be kept. Its methods take what a call takes."""

    def deep_shape(self, latent_shape: LatentShape, /) -> LatentShape | None:
        """Of the features of a row, of the rows' type; None for a network that has none to keep."""
        ...

    def keeping(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], /
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a call says, to the bit, and the deep features [B, C, h, w]."""
        ...

    def outer(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], deep: torch.Tensor, /
    ) -> torch.Tensor:
        """The same by the outermost layers, around features of another evaluation; around those of this one, what a
        call says."""
        ...


Asked = tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]
"""What a denoiser is called with."""

NO_FEATURES: LatentShape = (0, 0, 0)


def deep_shape(denoiser: Denoiser, latent_shape: LatentShape) -> LatentShape:
    """Of the features of a row; NO_FEATURES where there are none to keep."""
    shape = denoiser.deep_shape(latent_shape) if isinstance(denoiser, DeepDenoiser) else None
    return NO_FEATURES if shape is None else shape


def evaluate(
    denoiser: Denoiser, depth: Depth, asked: Asked, deep: torch.Tensor | None, place: torch.Tensor
) -> torch.Tensor:
    """The denoiser's output. `deep` are the places for kept features, [P, C, h, w], and `place` [B] is each row's.

    Written to after the denoiser has answered: an evaluation that raises may be repeated.
    """
    if depth is Depth.WHOLE:
        return denoiser(*asked)
    assert isinstance(denoiser, DeepDenoiser), "This is a bug: features are kept of a denoiser that has none."
    assert deep is not None, "This is a bug: there is no place for features."
    if depth is Depth.OUTER:
        return denoiser.outer(*asked, deep.index_select(0, place))
    output, features = denoiser.keeping(*asked)
    deep.index_copy_(0, place, features)
    return output
