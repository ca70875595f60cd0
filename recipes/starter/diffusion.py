"""The noise of training: how much, to which target, with what weight.

Knows the v-prediction formulas over Stable Diffusion's noise schedule; knows no network and no data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

STEPS = 1000
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": STEPS}


def alphas_cumprod() -> torch.Tensor:
    """float64 [STEPS], Stable Diffusion's scaled linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def draw_timesteps(rows: int, generator: torch.Generator, *, lean: float = 0.8) -> torch.Tensor:
    """int64 [rows] on the host, spread evenly over the batch and leaning to high noise, where pictures are laid out:
    the more, the smaller `lean`; 1 leans to nothing."""
    u = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    return (STEPS * u**lean).long().clamp(max=STEPS - 1)


@dataclass(frozen=True)
class Noised:
    """`x_t` goes in, `v` should come out, `weight` [B] is what an error counts."""

    x_t: torch.Tensor
    v: torch.Tensor
    weight: torch.Tensor


def noise(x_0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, a_bar: torch.Tensor, *, gamma: float = 5.0) -> Noised:
    """v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho 2022, arXiv 2202.00512).

    At low noise the weight is min-SNR's gamma / (SNR + 1) (Hang et al. 2023, arXiv 2303.09556). At high noise, where
    theirs falls to zero, it stays 1: with trailing timesteps the first step starts from pure noise and decides the
    background.
    """
    a = a_bar[t].to(x_0.dtype).view(-1, 1, 1, 1)
    signal, sigma = a.sqrt(), (1 - a).sqrt()
    snr = (a / (1 - a)).flatten()
    return Noised(
        x_t=signal * x_0 + sigma * eps, v=signal * eps - sigma * x_0, weight=(gamma / (snr + 1)).clamp(max=1.0)
    )
