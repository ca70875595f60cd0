"""What somebody named as a model that is no folder: said in a sentence, with what to do.

Knows file names and the tensor names that tell checkpoints apart. Loads nothing: to load such a file offline, diffusers
wants the configuration of a model that its tensors do not tell for sure (2.x at 512 and at 768 pixels are alike).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from pathlib import Path

from worker.models.headers import HeaderError, read_header

PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")

CHECKPOINTS = {
    "conditioner.embedders.1.": ("Stable Diffusion XL", "StableDiffusionXLPipeline"),
    "conditioner.embedders.0.model.": ("the Stable Diffusion XL refiner", ""),
    "cond_stage_model.model.": ("Stable Diffusion 2.x", "StableDiffusionPipeline"),
    "cond_stage_model.transformer.": ("Stable Diffusion 1.x", "StableDiffusionPipeline"),
}
"""By the names of their text encoders' tensors, as diffusers tells them apart."""


def what_it_is(path: Path) -> str:
    """One sentence about a path that is no folder."""
    if not path.exists():
        return f"The model folder {path} does not exist; name a folder written by save_pretrained."
    if path.suffix.lower() in PICKLED:
        return (
            f"{path} is a pickled checkpoint, which can run any program when it is opened; "
            "take the .safetensors of the model and convert that to a folder."
        )
    if path.suffix.lower() == ".safetensors":
        return _of_safetensors(path)
    return f"{path} is a file; name a folder written by save_pretrained."


def _of_safetensors(path: Path) -> str:
    try:
        names = read_header(path)
    except HeaderError as fault:
        return f"{path} {fault}."
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); give this user the right to."
    if any("lora" in name.lower() for name in names):
        return f"{path} is a LoRA, not a model; merge it into one and name that model's folder."
    what, pipeline = _checkpoint(names)
    if not pipeline:
        return f"{path} is {what}, not a model this engine can serve; name a folder written by save_pretrained."
    target = str(path.with_suffix(""))
    source, copy = json.dumps(str(path)), json.dumps(target)  # Python's words as well, and without single quotes
    command = f"from diffusers import {pipeline} as P; P.from_single_file({source}).save_pretrained({copy})"
    return (
        f"{path} is a single-file checkpoint of {what}, and a worker loads folders; "
        f"convert it once, on a machine with a network: python -c {shlex.quote(command)}"
        f", and name {target}."
    )


def _checkpoint(names: Collection[str]) -> tuple[str, str]:
    """What a file with such tensors is, and the pipeline that reads it."""
    for prefix, found in CHECKPOINTS.items():
        if any(name.startswith(prefix) for name in names):
            return found
    if any(name.startswith("model.diffusion_model.") for name in names):
        return "a denoiser without its text encoder", ""
    return "one part of a model, or something else", ""
