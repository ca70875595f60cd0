"""A solver as numbers: one small matrix for each model evaluation.

Every linear multistep, Runge-Kutta or ancestral solver is affine in what it remembers, in the model's output m and in
fresh noise z. Keep what it remembers in registers S, the latents x in register 0, and one evaluation is

    S' = A_i [S; m; z],        the model having seen input_scale_i * S_0 at timestep_i.

Knows no diffusers and no tensors: numbers on the host, which the denoising step takes along with its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.engine.keep import NO_NOISE

Numbers = NDArray[np.float32]

REGISTERS = 6
"""Rooms for latents and history of a sample. PNDM with its Runge-Kutta start needs all of them, DDIM one."""

ESTIMATE = REGISTERS
"""The row below the registers: x0, the finished picture as the model sees it now. For previews; no step reads it."""

VARIANCE = REGISTERS - 1
"""The register into which a step puts what the model says of the variance, where it predicts one. Not guided: that is
the conditional row's. A table that needs this register cannot be carried out for such a model."""

CONDITIONAL, UNCONDITIONAL, NOISE = REGISTERS, REGISTERS + 1, REGISTERS + 2
"""The columns behind the registers."""

BLOCK = (REGISTERS + 1, REGISTERS + 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One scheduler at one number of steps, for T model evaluations and R registers.

    `matrices` [T, R, R + 2]: rows and first columns are registers, then m and z. `estimates` [T, 2]: x0 as a sum of
    register 0 and m. `input_scale` and `timesteps` [T]. `draws`: whether an evaluation takes noise from the generator,
    which it may do even where its coefficient is zero. The latents start as noise times `init_noise_sigma`.

    `noised` [T + 1, 2]: a picture's latents z0 and noise n are together as noisy as the latents before evaluation i in
    a z0 + s n, with a and s of row i; the last row is z0 itself. None where the scheduler does not say.
    """

    matrices: Numbers
    estimates: Numbers
    input_scale: Numbers
    timesteps: Numbers
    draws: tuple[bool, ...]
    init_noise_sigma: float
    noised: Numbers | None = None

    def __post_init__(self) -> None:
        if self.registers > REGISTERS:
            raise ValueError(f"a table has at most {REGISTERS} registers, not {self.registers}")

    @property
    def evaluations(self) -> int:
        return len(self.timesteps)

    @property
    def registers(self) -> int:
        return self.matrices.shape[1]

    def noise_levels(self, i: int) -> tuple[float, float]:
        """What stays of a picture is a z0 + s n after evaluation i: a and s."""
        if self.noised is None:
            return NO_NOISE
        a, s = self.noised[i + 1].tolist()
        return a, s

    def block(self, i: int, guidance_scale: float) -> Numbers:
        """Evaluation i for the denoising step, [registers + x0, registers + conditional, unconditional, noise].

        Classifier-free guidance (Ho and Salimans, 2022), m = u + g (c - u), is linear as well and folds in: a column
        for c times g, and one for u times 1 - g. Without guidance g is 1, and whatever stands for u counts nothing.
        """
        own = self.registers
        block = np.zeros(BLOCK, np.float32)
        block[:own, :own] = self.matrices[i, :, :own]
        block[:own, CONDITIONAL] = self.matrices[i, :, own]
        block[:own, NOISE] = self.matrices[i, :, own + 1]
        block[ESTIMATE, 0], block[ESTIMATE, CONDITIONAL] = self.estimates[i]
        block[:, UNCONDITIONAL] = block[:, CONDITIONAL] * np.float32(1 - guidance_scale)
        block[:, CONDITIONAL] *= np.float32(guidance_scale)
        return block
