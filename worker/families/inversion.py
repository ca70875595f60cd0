"""A picture carried back to the noise that it could have been drawn from: DDIM inversion (Song et al. 2021, "Denoising
Diffusion Implicit Models", section 4.3; Ramesh et al. 2022, section 3.3).

Drawn from that noise under the same conditions the picture comes back; under others, what they do not change stays.
Knows schedules. Refuses to know what is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import diffusers
import torch

from worker.engine.errors import GenerationFailed
from worker.engine.passes import Begun
from worker.engine.posterior import Posterior
from worker.engine.rows import LatentShape
from worker.engine.solver import Schedule, Solver

SPACINGS = ("leading", "trailing")
"""That DDIMInverseScheduler knows."""


def inverted(decoder: Schedule) -> Schedule:
    """The same way, walked from its end to its beginning. Raises GenerationFailed for a scheduler that draws noise, or
    keeps what was before: there is no way back."""
    config = decoder.scheduler.config
    if not isinstance(decoder.scheduler, diffusers.DDIMScheduler) or decoder.options.get("eta"):
        raise GenerationFailed(f"start=inverted goes with the scheduler ddim alone, not with {decoder.name}.")
    if config.timestep_spacing not in SPACINGS:
        raise GenerationFailed(f"start=inverted is not possible with timesteps spaced {config.timestep_spacing}.")
    # What is clipped cannot be told back.
    scheduler = diffusers.DDIMInverseScheduler.from_config(config, clip_sample=False)
    return replace(decoder, name="inverted ddim", scheduler=scheduler)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FromPicture:
    """Begins with a picture's latents as they are, and draws nothing."""

    picture: Posterior

    def __call__(self, latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
        return Begun(self.picture.mean)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FromLatents:
    """Begins where another pass has ended, and draws nothing."""

    latents: torch.Tensor

    def __call__(self, latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
        return Begun(self.latents)
