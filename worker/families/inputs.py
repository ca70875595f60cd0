"""Pictures that come in, on their way into latents: image to image and inpainting, as diffusers' pipelines do them.

Pixels are resized, masks blurred and made black and white, by diffusers' own image processor. Then each sample begins
with what it draws, in the order of the stock pipeline. Knows no network: encoded is elsewhere, before a sample begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch.nn import functional

from worker.engine.errors import GenerationFailed
from worker.engine.family import Asked, Inputs
from worker.engine.keep import Keep
from worker.engine.noise import normal_noise
from worker.engine.passes import Begun, Start, from_noise
from worker.engine.posterior import Posterior
from worker.engine.request import Request
from worker.engine.rows import LatentShape
from worker.engine.solver import Solver
from worker.engine.transfer import to_device

MASK, MASKED = "mask", "masked_image_latents"
"""Names of the row tensors of a UNet that was trained for inpainting, [1, h, w] and [C, h, w]: where it repaints, and
the picture without that."""

OPAQUE = 255
SEE_THROUGH = "mask_image is transparent in places: those stay, as if they were black."
UNPAINTED = "Nothing was repainted: mask_image has no white part as large as a latent, {0} x {0} pixels."


class InputPictures:
    """How the pictures of a request are read by a model whose latents are `pixels_per_latent` smaller.

    `reads_masks`: its UNet has channels for a mask.
    """

    def __init__(self, *, pixels_per_latent: int, reads_masks: bool) -> None:
        self._scale = pixels_per_latent
        self._reads_masks = reads_masks
        self._pictures = VaeImageProcessor(vae_scale_factor=pixels_per_latent)
        self._masks = VaeImageProcessor(
            vae_scale_factor=pixels_per_latent, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    def read(self, request: Request) -> Inputs:
        """Of the request's own size. Raises GenerationFailed for what the model cannot do."""
        if self._reads_masks and (request.image is None or request.mask_image is None):
            raise GenerationFailed("This model only repaints: it needs an image and a mask_image.")
        if request.image is None:
            return Inputs()
        picture = self.picture(request.pictures[request.image.sha256], request)
        if request.mask_image is None:
            return Inputs([picture])
        mask = self._mask(request.pictures[request.mask_image.sha256], request)
        # As in the pipelines: to the nearest, in a mask that is black and white already.
        height, width = request.height // self._scale, request.width // self._scale
        repainted = functional.interpolate(mask[None], size=(height, width))[0] >= 0.5
        if not self._reads_masks:
            return Inputs([picture], repainted)
        masked = picture * (mask < 0.5)
        return Inputs([masked] if is_full(request) else [picture, masked], repainted)

    def picture(self, pixels: np.ndarray, request: Request) -> torch.Tensor:
        """Float32 [3, H, W] of -1 to 1, of uint8 [H, W, 3 or 4]."""
        read: torch.Tensor = self._pictures.preprocess(on_white(pixels), request.height, request.width)
        return read[0]

    def warnings(self, request: Request, inputs: Inputs) -> list[str]:
        """What may be meant otherwise in a mask, of what `read` made of it."""
        if request.mask_image is None or inputs.repainted is None:
            return []
        pixels = request.pictures[request.mask_image.sha256]
        said = [SEE_THROUGH] if pixels.shape[-1] == 4 and pixels[..., 3].min() < OPAQUE else []
        return said if inputs.repainted.any() else [*said, UNPAINTED.format(self._scale)]

    def _mask(self, pixels: np.ndarray, request: Request) -> torch.Tensor:
        """Float32 [1, H, W] of 0 and 1, of uint8 [H, W, 3 or 4]. 1 is repainted."""
        # Paint on a layer of its own: of what is transparent, programs store black, white or what was erased.
        mask = on(pixels, "black").convert("L")
        if request.mask_blur:
            mask = VaeImageProcessor.blur(mask, request.mask_blur)
        read: torch.Tensor = self._masks.preprocess(mask, request.height, request.width)
        return read[0]


def on_white(pixels: np.ndarray) -> Image.Image:
    """In RGB, of uint8 [H, W, 3 or 4]. What is transparent shows white."""
    return on(pixels, "white")


def on(pixels: np.ndarray, colour: str) -> Image.Image:
    """The same before any colour."""
    image = Image.fromarray(pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, colour), image)
    return image.convert("RGB")


def is_full(request: Request) -> bool:
    """Nothing of the picture's colours counts where it is repainted."""
    return request.strength == 1


def start_of(asked: Asked, *, reads_masks: bool) -> Start:
    """How the samples of a request begin."""
    repainted = asked.inputs.repainted
    if not asked.encoded:
        return from_noise
    if repainted is None:
        return FromPicture(asked.encoded[0])
    if reads_masks:
        *picture, masked = asked.encoded
        return RepaintingByChannels(masked, repainted, picture[0] if picture else None)
    return Repainting(asked.encoded[0], repainted, is_full=is_full(asked.request))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FromPicture:
    """StableDiffusionImg2ImgPipeline (SDEdit, Meng et al. 2022): the picture's latents, and noise over them."""

    picture: Posterior

    def __call__(self, latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
        latents = self.picture.sample(generator)
        noise = _noise(latent_shape, generator, latents.device)
        return Begun(solver.noised(latents, noise))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Repainting:
    """StableDiffusionInpaintPipeline with a UNet of four channels: the rest of the picture is put back after each
    step."""

    picture: Posterior
    repainted: torch.Tensor
    is_full: bool

    def __call__(self, latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
        latents = self.picture.sample(generator)
        noise = _noise(latent_shape, generator, latents.device)
        # The pipeline encodes the picture without what is repainted as well, and has no use for it but this draw.
        self.picture.sample(generator)
        start = noise * solver.table.init_noise_sigma if self.is_full else solver.noised(latents, noise)
        return Begun(start, keep=Keep(latents, noise, to_device(self.repainted, latents.device)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RepaintingByChannels:
    """The same pipeline with a UNet of nine channels. `picture` is None where nothing of it counts."""

    masked: Posterior
    repainted: torch.Tensor
    picture: Posterior | None

    def __call__(self, latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
        device = self.masked.mean.device
        latents = self.picture.sample(generator) if self.picture else None
        noise = _noise(latent_shape, generator, device)
        start = noise * solver.table.init_noise_sigma if latents is None else solver.noised(latents, noise)
        rows = {MASK: to_device(self.repainted, device).float(), MASKED: self.masked.sample(generator)}
        return Begun(start, rows)


def _noise(latent_shape: LatentShape, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return to_device(normal_noise(latent_shape, generator), device)
