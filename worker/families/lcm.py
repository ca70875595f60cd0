"""Latent consistency models (Luo et al. 2023): distilled with their guidance, which enters the UNet as a vector.

Knows how a guidance scale becomes that vector. All else is Stable Diffusion's, without an unconditional row.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from worker.engine.request import Request
from worker.engine.solver import Schedule
from worker.engine.stepping import Beginning
from worker.engine.transfer import to_device
from worker.families.stable_diffusion import StableDiffusion


class LatentConsistency(StableDiffusion):
    """A Family (worker/engine/family.py)."""

    WITHOUT_EFFECT = "this model takes its guidance as a number and draws without an unconditional row"

    def schedules(self, request: Request) -> list[Schedule]:
        """From a picture, LatentConsistencyModelImg2ImgPipeline takes all of its steps on the rest of the way; what
        inpaints is StableDiffusionInpaintPipeline."""
        if request.strength is None or request.mask_image is not None:
            return super().schedules(request)
        schedule = self._schedulers.schedule(request.scheduler, request.num_inference_steps)
        return [replace(schedule, beginning=Beginning(strength=request.strength))]

    def _is_guided(self, request: Request) -> bool:
        return False

    def _shared(self, request: Request) -> dict[str, torch.Tensor]:
        """The paper's scale w counts from 0, a request's from 1: LatentConsistencyModelPipeline takes 1 off as well."""
        vector = guidance_embedding(request.guidance_scale - 1, self._bundle.unet.config.time_cond_proj_dim)
        return {"timestep_cond": to_device(vector.to(self._bundle.dtype), self.device)}


def guidance_embedding(w: float, width: int) -> torch.Tensor:
    """Float32 [width]: sines, then cosines of 1000 w at frequencies from 1 down to 1/10000 (Kingma et al. 2021,
    "Variational Diffusion Models", whose code it is taken from). An odd width ends with a zero."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000.0) / (half - 1)))
    angles = torch.tensor(w) * 1000.0 * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))
