"""Classifier-free guidance (Ho and Salimans, 2022) as numbers of a sample, and what of it no table's block can do.

Knows no rows and no solver: table.py folds the scale into a block, denoise.py carries out both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """m = u + `scale` (c - u), of the conditional output c and the unconditional u.

    `rescale`, 0 to 1: so far m is brought back to the standard deviation that c has (Lin et al. 2023, "Common Diffusion
    Noise Schedules and Sample Steps are Flawed", section 3.4).

    It ends with the part `end` of a pass, above 0, at most 1: what guidance decides is decided early (Kynkäänniemi et
    al. 2024, "Applying Guidance in a Limited Interval").
    """

    scale: float = 1.0
    rescale: float = 0.0
    end: float = 1.0

    def is_asked(self, evaluation: int, evaluations: int) -> bool:
        """At that one of so many. Rounded as the end of a ControlNet is."""
        return (evaluation + 1) / evaluations <= self.end


NO_GUIDANCE = Guidance()


def rescaling(c: torch.Tensor, u: torch.Tensor, scale: torch.Tensor, rescale: torch.Tensor, /) -> torch.Tensor:
    """What c and u are to be multiplied by so that m is rescaled: [samples, 1, 1, 1], of [samples, C, h, w] and, for
    scales, [samples, 1, 1, 1]. Exactly 1 where nobody asks, whatever stands there: no bit of those changes."""
    m = u + scale * (c - u)
    ratio = c.std((1, 2, 3), keepdim=True) / m.std((1, 2, 3), keepdim=True)
    return torch.where(rescale > 0, rescale * ratio + (1 - rescale), torch.ones_like(ratio))
