"""Which family a model is of. Every family that is served is named here, and nowhere else in the worker's code."""

from __future__ import annotations

from collections.abc import Callable

from worker.engine.family import Family
from worker.families.image_variation import ImageVariation
from worker.families.kandinsky import Kandinsky
from worker.families.karlo import Karlo
from worker.families.lcm import LatentConsistency
from worker.families.stable_diffusion import StableDiffusion
from worker.families.stable_diffusion_xl import StableDiffusionXL
from worker.families.unclip import StableUnCLIP
from worker.models.bundle import Bundle

FAMILIES: dict[str, Callable[[Bundle], Family]] = {
    "KandinskyV22CombinedPipeline": Kandinsky,
    "KandinskyV22Pipeline": Kandinsky,
    "LatentConsistencyModelPipeline": LatentConsistency,
    "StableDiffusionImageVariationPipeline": ImageVariation,
    "StableDiffusionInpaintPipeline": StableDiffusion,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLInpaintPipeline": StableDiffusionXL,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableUnCLIPImg2ImgPipeline": StableUnCLIP,
    "StableUnCLIPPipeline": StableUnCLIP,
    "UnCLIPPipeline": Karlo,
}
"""By the stock pipeline's class, which the model's folder names."""


def family_of(bundle: Bundle) -> Family:
    return FAMILIES[bundle.family](bundle)
