"""ControlNets of tiny models, with random weights everywhere: those of a fresh one end in zeros, and change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from app.contract.messages.inputs import Control, InputPicture
from tests.engine.driving import inputs_of
from tests.engine.tiny_models import SIDE
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.configs import vae_scale_factor
from worker.models.controlnets import KeptFolder, OfModel, read_controlnets
from worker.models.headers import Tensor
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import step_options

LANCZOS = Image.Resampling.LANCZOS

ENCODER = (4, 8, 8)
"""Channels of a control picture on its way to latents, whose sides are a quarter of a tiny model's pictures."""


def tiny_controlnet(unet: Any, seed: int, **options: Any) -> diffusers.ControlNetModel:
    torch.manual_seed(seed)
    with quiet_libraries():
        network = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=ENCODER, **options)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def model_of(bundle: Bundle) -> OfModel:
    tensors = {name: Tensor("F32", tuple(each.shape)) for name, each in bundle.unet.state_dict().items()}
    factor = vae_scale_factor(bundle.vae.config)
    return OfModel(dict(bundle.unet.config), tensors, bundle.vae.config.latent_channels, factor)


def with_controlnets(bundle: Bundle, folder: Path, *, kept: int = 2) -> Bundle:
    """The bundle with two ControlNets, one in a folder and one in a single file; `other` reads blue, green, red."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_controlnet(bundle.unet, 1).save_pretrained(folder / "edges")
    other = tiny_controlnet(bundle.unet, 2, controlnet_conditioning_channel_order="bgr")
    other.save_pretrained(folder / "other")
    save_file(tiny_controlnet(bundle.unet, 3).state_dict(), folder / "single.safetensors")
    files = read_controlnets(KeptFolder(folder, kept), model_of(bundle))
    assert files.faults == ()
    return dataclasses.replace(bundle, controlnets=files)


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    """A coarse pattern, uint8 [side, side, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return coarse.repeat(side // 8, 0).repeat(side // 8, 1)


PICTURES = {f"{seed:064x}": picture(seed, side) for seed, side in ((1, SIDE), (2, SIDE), (3, 96))}


def control(
    model: str = "edges", *, image: int = 1, scale: float = 1.0, start: float = 0.0, end: float = 1.0
) -> Control:
    sha256 = f"{image:064x}"
    height, width, _ = PICTURES[sha256].shape
    stored = InputPicture(sha256=sha256, width=width, height=height, content_type="image/png")
    return Control(model=model, image=stored, scale=scale, start=start, end=end)


def stock_controlled(bundle: Bundle, request: Any) -> torch.Tensor:
    """Latents [C, h, w] of diffusers' own ControlNet pipeline for the same request."""
    plain, kind = stock_pipeline(bundle, request.scheduler), "ControlNet"
    if request.image is not None:
        kind += "Img2Img" if request.mask_image is None else "Inpaint"
    cls = getattr(diffusers, type(plain).__name__.replace("Pipeline", f"{kind}Pipeline"))
    pictures = [Image.fromarray(request.pictures[each.image.sha256]) for each in request.control]
    options = {"add_watermarker": False, "force_zeros_for_empty_prompt": bundle.force_zeros_for_empty_prompt}
    options = options if "XL" in cls.__name__ else {"requires_safety_checker": False}
    with quiet_libraries():
        networks = [_loaded(bundle, bundle.controlnets.files[each.model].path) for each in request.control]
        pipeline = cls(**plain.components | {"controlnet": networks}, **options)
        pipeline.set_progress_bar_config(disable=True)
        given = (
            {"image": pictures}
            if request.image is None
            else inputs_of(pipeline, request)
            | {"control_image": [picture.resize((request.width, request.height), LANCZOS) for picture in pictures]}
        )
        return pipeline(
            request.prompt,
            **given,
            controlnet_conditioning_scale=[each.scale for each in request.control],
            control_guidance_start=[each.start for each in request.control],
            control_guidance_end=[each.end for each in request.control],
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="latent",
            eta=step_options(request.scheduler)["eta"],
        ).images[0]


def _loaded(bundle: Bundle, path: Path) -> Any:
    if path.is_dir():
        return diffusers.ControlNetModel.from_pretrained(path).eval()
    return tiny_controlnet(bundle.unet, 3)
