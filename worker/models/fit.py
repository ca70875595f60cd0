"""Parts of a model that load, but were not made for each other or need an input that text to image does not have."""

from __future__ import annotations

from typing import Any

from worker.models.errors import ModelError
from worker.models.folder import ModelFolder

SIZES = 6
"""Numbers about sizes that SDXL's UNet reads: original height and width, top and left of the crop, target height and
width."""


def check_fit(source: ModelFolder, parts: dict[str, Any]) -> None:
    """Raises ModelError, one sentence with the remedy."""
    _check_unet(source, parts)
    _check_vae(source, parts["vae"])
    for suffix in ("", "_2"):
        if f"tokenizer{suffix}" in parts:
            _check_tokens(source, parts[f"tokenizer{suffix}"], parts[f"text_encoder{suffix}"])
    if "tokenizer_2" in parts and parts["tokenizer"].get_vocab() != parts["tokenizer_2"].get_vocab():
        raise ModelError(f"The two tokenizers of {source.path} have different vocabularies; fetch the model again.")


def _check_unet(source: ModelFolder, parts: dict[str, Any]) -> None:
    unet = parts["unet"].config
    first, second = parts["text_encoder"].config, getattr(parts.get("text_encoder_2"), "config", None)
    width = first.hidden_size + (second.hidden_size if second else 0)
    unsupported = {
        "in_channels": unet.in_channels != parts["vae"].config.latent_channels,
        "cross_attention_dim": unet.cross_attention_dim != width,
        "class_embed_type": unet.class_embed_type is not None,
        "num_class_embeds": unet.num_class_embeds is not None,
        "addition_embed_type": unet.addition_embed_type not in (("text_time",) if second else (None, "text")),
        "encoder_hid_dim_type": unet.encoder_hid_dim_type is not None,
        "time_cond_proj_dim": unet.time_cond_proj_dim is not None,
    }
    if second:
        beside_the_text = second.projection_dim + SIZES * (unet.addition_time_embed_dim or 0)
        unsupported["projection_class_embeddings_input_dim"] = (
            unet.projection_class_embeddings_input_dim != beside_the_text
        )
    for key, wrong in unsupported.items():
        if wrong:
            raise ModelError(
                f"The UNet of {source.path} has {key}={unet[key]}, which this engine cannot serve; "
                "take a plain Stable Diffusion 1.x, 2.x or XL base model."
            )


def _check_vae(source: ModelFolder, vae: Any) -> None:
    for key in ("latents_mean", "latents_std", "shift_factor"):
        if vae.config.get(key):
            raise ModelError(
                f"The VAE of {source.path} has {key}, which this engine cannot serve; "
                "take a plain Stable Diffusion 1.x, 2.x or XL base model."
            )


def _check_tokens(source: ModelFolder, tokenizer: Any, text_encoder: Any) -> None:
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ModelError(
            f"The tokenizer of {source.path} has {len(tokenizer)} tokens, its text encoder only "
            f"{text_encoder.config.vocab_size}; fetch both from the same model."
        )
