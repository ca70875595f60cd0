"""Go on from a finished model: its vocabulary, its autoencoder and the layout of its networks take the place of the
recipe's own.

Knows the folder of a pipeline and a work folder; trains nothing. Latents must mean the same to the networks as before,
so the components are read back out of the folder's encoder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from recipes.starter import autoencoder


def adopt(folder: Path, work: Path) -> None:
    """Give `work` the `tokenizer/`, `vae/` and `components.safetensors` of a model folder; what it has already stays.

    Raises ValueError if `work` has components of another encoder, because networks would learn two languages at once.
    """
    for name in ("tokenizer", "vae"):
        if not (work / name).is_dir():
            shutil.copytree(folder / name, work / name)
    parts = autoencoder.components_of(autoencoder_of(folder))
    path = work / "components.safetensors"
    if path.is_file():
        stored = autoencoder.load_components(path)
        if stored.basis.shape != parts.basis.shape or not torch.allclose(stored.basis, parts.basis, atol=1e-3):
            raise ValueError(f"{path} are not of the encoder in {folder}; start with an empty work folder.")
        return
    save_file({"mean": parts.mean, "basis": parts.basis}, path)


def autoencoder_of(folder: Path) -> Any:
    """The autoencoder of a model folder, in float32."""
    return diffusers.AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32, local_files_only=True)


def networks_of(folder: Path) -> tuple[Any, Any]:
    """Text encoder and UNet of a model folder, in float32 and in training mode."""
    text_encoder = transformers.CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, local_files_only=True
    )
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=torch.float32, local_files_only=True
    )
    return text_encoder.train(), unet.train()
