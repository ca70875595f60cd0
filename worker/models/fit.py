"""Parts of a model that load, but were not made for each other or need an input that text to image does not have.

Reads configurations only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from worker.models.configs import Config
from worker.models.folder import ModelFolder

SIZES = 6
"""Numbers about sizes that SDXL's UNet reads: original height and width, top and left of the crop, target height and
width."""

PLAIN = "take a plain Stable Diffusion 1.x, 2.x or XL base model."


def misfits(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """One sentence for each, with the remedy. `configs` are those of all parts that have weights."""
    yield from _wrong_types(folder, configs)
    yield from _of_unet(folder, configs)
    yield from _of_vae(folder, configs["vae"])


def _of_unet(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    unet, first, second = configs["unet"], configs["text_encoder"], configs.get("text_encoder_2")
    latents, inputs = configs["vae"]["latent_channels"], folder.pipeline.unet_inputs
    masked = 2 * latents + 1
    width = first["hidden_size"] + (second["hidden_size"] if second else 0)
    unsupported = {
        "in_channels": unet["in_channels"] not in ((latents, masked) if folder.pipeline.repaints else (latents,)),
        "out_channels": unet["out_channels"] != latents,
        "cross_attention_dim": unet["cross_attention_dim"] != width,
        "class_embed_type": unet["class_embed_type"] is not None,
        "num_class_embeds": unet["num_class_embeds"] is not None,
        "addition_embed_type": unet["addition_embed_type"] not in (("text_time",) if second else (None, "text")),
        "encoder_hid_dim_type": unet["encoder_hid_dim_type"] is not None,
        "time_cond_proj_dim": (unet["time_cond_proj_dim"] is None) == ("time_cond_proj_dim" in inputs),
    }
    if second:
        beside_the_text = second["projection_dim"] + SIZES * (unet["addition_time_embed_dim"] or 0)
        unsupported["projection_class_embeddings_input_dim"] = (
            unet["projection_class_embeddings_input_dim"] != beside_the_text
        )
    if unet["in_channels"] == masked and not folder.pipeline.repaints:
        theirs = folder.pipeline.name.replace("Pipeline", "InpaintPipeline")
        yield (
            f"The UNet of {folder.path} has in_channels={masked}: it was trained for inpainting; "
            f"write {theirs} as _class_name into model_index.json."
        )
        del unsupported["in_channels"]
    for key, wrong in unsupported.items():
        if wrong:
            yield f"The UNet of {folder.path} has {key}={unet[key]}, which this engine cannot serve; {PLAIN}"


def _of_vae(folder: ModelFolder, vae: Config) -> Iterator[str]:
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.get(key):
            yield f"The VAE of {folder.path} has {key}, which this engine cannot serve; {PLAIN}"


def _wrong_types(folder: ModelFolder, configs: Mapping[str, Config]) -> Iterator[str]:
    """Values with which a configuration is none: the classes take some of them and fail later."""
    unet, vae = configs["unet"], configs["vae"]
    size = unet["sample_size"]
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if size is not None and not all(_is_natural(side) for side in sides):
        yield _wrong(folder, "unet", "sample_size", size)
    scale = vae["scaling_factor"]
    if not isinstance(scale, int | float) or not math.isfinite(scale) or not scale > 0:
        yield _wrong(folder, "vae", "scaling_factor", scale)


def _wrong(folder: ModelFolder, component: str, key: str, value: Any) -> str:
    return f"{folder.config_file(component)} has {key}={value!r:.100}, which is impossible; fetch the file again."


def _is_natural(value: Any) -> bool:
    return type(value) is int and value > 0
