"""LoRA files for tiny models, in both spellings, with random factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from worker.models.bundle import Bundle
from worker.models.shapes import layer_shapes

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}

Factors = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
"""By part and path: down [r, in, *kernel] and up [out, r, *ones]."""


def is_attention(path: str) -> bool:
    return path.endswith(ATTENTION)


def is_any(path: str) -> bool:
    """Of the UNet: linear layers and convolutions, strided ones and those of 1 x 1 too."""
    return True


def factors(
    bundle: Bundle, *, rank: int, seed: int, parts: Iterable[str] = ("unet",), chosen: Callable[[str], bool]
) -> Factors:
    """Large enough to change every picture. Of text encoders, all of their layers."""
    generator = torch.Generator().manual_seed(seed)
    made: Factors = {}
    for part in parts:
        for path, (out, *inner) in layer_shapes(getattr(bundle, part)).items():
            if chosen(path) if part == "unet" else path.endswith(TEXT):
                down = torch.randn(rank, *inner, generator=generator) / (inner[0] ** 0.5)
                up = torch.randn(out, rank, *[1] * (len(inner) - 1), generator=generator) / rank
                made[part, path] = down, up
    return made


def save_kohya(file: Path, made: Factors, *, alpha: float, xl: bool = False, metadata: Any = None) -> Path:
    """As kohya's sd-scripts write it: underscores, and an alpha for each layer."""
    tensors = {}
    for (part, path), (down, up) in made.items():
        prefix = "lora_te1_" if xl and part == "text_encoder" else PREFIXES[part]
        plain = path if part == "unet" else f"text_model.{path.removeprefix('text_model.')}"
        name = prefix + plain.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return file


def save_peft(file: Path, made: Factors, metadata: Any = None) -> Path:
    """As diffusers' save_lora_weights writes it: paths with dots. Alpha is the rank."""
    tensors = {}
    for (part, path), (down, up) in made.items():
        plain = path if part == "unet" else f"text_model.{path.removeprefix('text_model.')}"
        tensors[f"{part}.{plain}.lora_A.weight"] = down
        tensors[f"{part}.{plain}.lora_B.weight"] = up
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return file


def merge(bundle: Bundle, made: Factors, *, scale: float) -> None:
    """Into the weights themselves, by the published formula: W + scale * up @ down."""
    with torch.no_grad():
        for (part, path), (down, up) in made.items():
            weight = getattr(bundle, part).get_submodule(path).weight
            weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
