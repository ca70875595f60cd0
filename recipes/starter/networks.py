"""The sizes of the networks, and the networks: text encoder, UNet, scorer, all of stock classes.

Knows diffusers' and transformers' configurations; knows no weights. FULL is what is shipped, TINY what tests train.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """FULL's parameters: text encoder 1.5 M, UNet 10.4 M (1.26 GFLOP a row at 128 x 128), decoder 0.8 M, scorer 1.4 M.

    In float16 text encoder, UNet and autoencoder take 26 MB together.
    """

    latent_channels: int = 12
    decoder_width: int = 48
    decoder_blocks: tuple[int, ...] = (5, 4, 2, 0)
    text_width: int = 192
    text_layers: int = 3
    text_hidden: int = 576
    unet_channels: tuple[int, ...] = (96, 128, 160)
    unet_layers: int = 1
    head_width: int = 32
    norm_groups: int = 16
    scorer_width: int = 128
    scorer_layers: int = 4
    judge_width: int = 32


FULL = Sizes()
TINY = Sizes(
    latent_channels=4,
    decoder_width=8,
    decoder_blocks=(1, 1, 0, 0),
    text_width=32,
    text_layers=1,
    text_hidden=64,
    unet_channels=(16, 32),
    head_width=16,
    norm_groups=8,
    scorer_width=32,
    scorer_layers=1,
    judge_width=8,
)


def text_config(tokenizer: Any, *, width: int, layers: int, hidden: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "max_position_embeddings": tokenizer.model_max_length,
        "hidden_act": "quick_gelu",
        "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def text_encoder(tokenizer: Any, sizes: Sizes = FULL) -> Any:
    config = text_config(tokenizer, width=sizes.text_width, layers=sizes.text_layers, hidden=sizes.text_hidden)
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))


def unet(sizes: Sizes = FULL, *, sample_size: int = 16) -> Any:
    """Cross-attention at every resolution; pooled text is added to the time embedding (addition_embed_type)."""
    depth = len(sizes.unet_channels)
    return diffusers.UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet_channels,
        layers_per_block=sizes.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * depth,
        up_block_types=("CrossAttnUpBlock2D",) * depth,
        # diffusers calls the number of heads attention_head_dim in this class.
        attention_head_dim=tuple(channels // sizes.head_width for channels in sizes.unet_channels),
        cross_attention_dim=sizes.text_width,
        norm_num_groups=sizes.norm_groups,
        addition_embed_type="text",
        addition_embed_type_num_heads=max(1, sizes.text_width // 32),
    )


def scorer(tokenizer: Any, sizes: Sizes = FULL, *, image_size: int = 128) -> Any:
    """A CLIPModel: the same class, the same use and the same cosine as a big one."""
    width, layers = sizes.scorer_width, sizes.scorer_layers
    vision = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "image_size": image_size,
        "patch_size": 16,
        "hidden_act": "quick_gelu",
    }
    text = text_config(tokenizer, width=width, layers=max(1, layers // 2), hidden=3 * width)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


def write_out_attention(model: Any, device: torch.device | str) -> None:
    """Attention as products and a softmax, for training on a CPU: the fused one of torch 2.13 takes four times as long
    backwards in bfloat16. Changes no weights, and nothing on another device."""
    if torch.device(device).type != "cpu":
        return
    if isinstance(model, diffusers.UNet2DConditionModel):
        model.set_attn_processor(AttnProcessor())
    else:
        model.set_attn_implementation("eager")


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def half_copy(model: Any) -> Any:
    """The same model in float16, on the host; the original keeps its type."""
    return copy.deepcopy(model).to("cpu", torch.float16)
