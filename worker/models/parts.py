"""One part of a model from its folder into memory: from safetensors and local files only.

Knows how each kind of part is loaded. Knows no device, and not what the parts make together.
"""

from __future__ import annotations

from typing import Any

import torch

from worker.models.configs import part_dtype
from worker.models.errors import ModelError
from worker.models.folder import SCHEDULERS, ModelFolder
from worker.models.preparation import read_preparation
from worker.models.shapes import class_of, load_scheduler, load_tokenizer


def load_part(source: ModelFolder, component: str, dtype: str) -> Any:
    """A part of a model that runs in `dtype`, in torch's words; in the host's memory. Raises ModelError, and what the
    libraries raise."""
    if component in SCHEDULERS:
        return load_scheduler(source, component)
    if component == "feature_extractor":
        return read_preparation(source.path / component)
    if component not in source.weighted:
        return load_tokenizer(source, component)
    return _load_weights(source, component, getattr(torch, part_dtype(source, component, dtype)))


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
