"""A part's configuration as its class would complete it: what config.json leaves out has a default there.

Knows names and numbers of diffusers' and transformers' classes; a test compares them with the classes. Imports neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.models.folder import ModelFolder

Config = Mapping[str, Any]

_TEXT_MODEL: Config = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "quick_gelu",
}

CLASS_DEFAULTS: Mapping[str, Config] = {
    "CLIPTextModel": _TEXT_MODEL,
    "CLIPTextModelWithProjection": _TEXT_MODEL,
    "UNet2DConditionModel": {
        "sample_size": None,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1280,
        "class_embed_type": None,
        "num_class_embeds": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "time_cond_proj_dim": None,
        "projection_class_embeddings_input_dim": None,
    },
    "AutoencoderKL": {
        "block_out_channels": (64,),
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": True,
    },
    "VQModel": {
        "block_out_channels": (64,),
        "latent_channels": 3,
        "vq_embed_dim": None,
        # Nobody multiplies by it.
        "scaling_factor": 0.18215,
    },
    "UNet2DModel": {
        "sample_size": None,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
    },
    "UnCLIPTextProjModel": {"clip_extra_context_tokens": 4, "clip_embeddings_dim": 768},
    "StableDiffusionSafetyChecker": {"projection_dim": 512},
    "CLIPVisionModelWithProjection": {"projection_dim": 512, "image_size": 224, "hidden_act": "quick_gelu"},
    "PriorTransformer": {
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "embedding_dim": 768,
        "num_embeddings": 77,
        "additional_embeddings": 4,
        "embedding_proj_dim": None,
        "clip_embed_dim": None,
    },
    "StableUnCLIPImageNormalizer": {"embedding_dim": 768},
    "AutoencoderTiny": {
        "decoder_block_out_channels": (64, 64, 64, 64),
        "latent_channels": 4,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "force_upcast": False,
    },
}


def config_of(folder: ModelFolder, component: str) -> dict[str, Any]:
    """The configuration of a part that has weights. Raises ModelError if its file is missing or damaged."""
    said = folder.config(component)
    # An encoder cut out of a whole CLIP keeps its part of the configuration in there.
    own = "vision_config" if component == "image_encoder" else "text_config"
    if "encoder" in component and isinstance(said.get(own), dict):
        said = said[own] | {name: said[name] for name in ("projection_dim", "_name_or_path") if name in said}
    return {**CLASS_DEFAULTS[folder.class_of(component)], **said}


def vae_scale_factor(vae: Config) -> int:
    """Pixels along a side of one latent, as the pipelines have it."""
    return int(2 ** (len(vae.get("decoder_block_out_channels") or vae["block_out_channels"]) - 1))


def part_dtype(folder: ModelFolder, component: str, dtype: str) -> str:
    """The type in which a part runs where the model runs in `dtype`, in torch's words."""
    if component == "vae" and folder.pipeline.is_xl and dtype == "float16":
        # SDXL's VAE overflows in float16 unless it was retrained, and then its configuration says so.
        return "float32" if folder.config("vae").get("force_upcast", True) else dtype
    # Two vectors, by which an embedding is scaled.
    return "float32" if component == "image_normalizer" else dtype


def pixels_per_latent(configs: Mapping[str, Config]) -> int:
    """Of a model with parts of these configurations: 1 where pixels themselves are denoised."""
    return vae_scale_factor(configs["vae"]) if "vae" in configs else 1


def last_network(configs: Mapping[str, Config]) -> Config:
    """Of the one that denoises a picture at last, in its full size: what its steps cost most in."""
    return configs.get("super_res_last") or configs["unet"]


def native_size(folder: ModelFolder, configs: Mapping[str, Config]) -> tuple[int, int]:
    """Width and height in pixels: what the model was trained at, or its family where the network does not say."""
    size, scale = last_network(configs)["sample_size"], pixels_per_latent(configs)
    if size is None:
        return folder.pipeline.native_side, folder.pipeline.native_side
    height, width = (size, size) if isinstance(size, int) else size
    return width * scale, height * scale


def side_multiple(folder: ModelFolder, configs: Mapping[str, Config]) -> int:
    """Pixels that both sides of a picture are multiples of."""
    native = max(native_size(folder, configs))
    return folder.pipeline.side_multiple(scale=pixels_per_latent(configs), native=native)


SPLIT = frozenset({"CrossAttnUpBlock2D", "UpBlock2D"})
"""Up blocks whose layers are a residual network each, which reads what comes from below and one skip connection."""


def outer_channels(unet: Config) -> int | None:
    """Of the features that enter the last layer of a UNet's last block, around which its outermost layers are a network
    by themselves (worker/families/deep_cache.py). None where the block is of another kind."""
    return int(unet["block_out_channels"][0]) if unet["up_block_types"][-1] in SPLIT else None


def prior_dimensions(prior: Config) -> int:
    """Numbers of the image embeddings that a prior makes."""
    return int(prior["clip_embed_dim"] or prior["embedding_dim"])
