"""Classifier-free guidance (Ho and Salimans, 2022) of one sample, as numbers.

Knows no rows and no solver: table.py folds it into a block, denoise.py carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """m = u + `scale` (c - u), of the conditional output c and the unconditional u."""

    scale: float = 1.0


NO_GUIDANCE = Guidance()
