"""One part of a model from its folder into memory: from safetensors and local files only.

Knows how each kind of part is loaded. Knows not what the parts make together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from worker.models.black import BLACK, black_embedding
from worker.models.configs import part_dtype
from worker.models.errors import ModelError
from worker.models.folder import SCHEDULERS, ModelFolder
from worker.models.place import Place
from worker.models.preparation import read_preparation
from worker.models.seldom import Seldom
from worker.models.shapes import class_of, load_scheduler, load_tokenizer

CONVOLUTIONS = ("unet", "vae", "super_res_first", "super_res_last")
"""Parts whose memory layout matters."""


def load_part(source: ModelFolder, component: str, dtype: str) -> Any:
    """A part of a model that runs in `dtype`, in torch's words; in the host's memory. Raises ModelError, and what the
    libraries raise."""
    if component in SCHEDULERS:
        return load_scheduler(source, component)
    if component == "feature_extractor":
        return read_preparation(source.part(component))
    if component not in source.weighted:
        return load_tokenizer(source, component)
    return _load_weights(source, component, getattr(torch, part_dtype(source, component, dtype)))


@dataclass(frozen=True, slots=True)
class SeldomPart:
    """A part that is in memory only while a request needs it: who lends it to all of them, and its size in bytes."""

    lending: Seldom
    nbytes: int


def ready_part(source: ModelFolder, component: str, place: Place, *, last: bool = False) -> Any:
    """A part, ready to be called where the model is; with its channels `last` if it is one of convolutions. Raises what
    `load_part` raises."""
    part = load_part(source, component, place.dtype_name)
    if component not in source.weighted:
        return part
    layout = {"memory_format": torch.channels_last} if last and component in CONVOLUTIONS else {}
    return part.to(place.device, **layout).eval().requires_grad_(False)


def seldom_parts(source: ModelFolder, place: Place) -> tuple[dict[str, SeldomPart], dict[str, Any]]:
    """Those of the model, and what is needed of them once, by name: each comes, and goes again. Raises what `load_part`
    raises."""
    if "image_encoder" not in source.pipeline.seldom:
        return {}, {}
    load = partial(ready_part, source, "image_encoder", replace(place, device=torch.device("cpu")))
    encoder = load()
    nbytes = sum(each.nbytes for each in encoder.parameters())
    return {"image_encoder": SeldomPart(Seldom(load), nbytes)}, {BLACK: black_embedding(encoder.to(place.device))}


def _load_weights(source: ModelFolder, component: str, dtype: torch.dtype) -> Any:
    """One part with all of its tensors.

    Without `output_loading_info` a missing tensor would only be logged: transformers fills it with random numbers and
    the pictures are noise.
    """
    path = source.part(component)
    model, info = class_of(source, component).from_pretrained(
        path,
        dtype=dtype,
        variant=source.weights(component).variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
        raise ModelError(f"The weights in {path} lack {len(wrong)} tensors, e.g. {wrong[0]}; fetch the model again.")
    return model
