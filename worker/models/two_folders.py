"""Models that are published in two folders: what the one before says of its parts.

Knows the two model_index.json. Refuses to know what the parts are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.models.errors import ModelError
from worker.models.pipeline import Pipeline

Read = Callable[[Path], dict[str, Any]]


def index_behind(folder: Path, pipeline: Pipeline, prior: Path | None, read: Read) -> dict[str, Any]:
    """Entries of model_index.json in `prior`, by our names of the parts, for a model of `pipeline` in `folder`; `read`
    reads JSON files. Raises ModelError where the model needs such a folder and this is none, or takes none."""
    behind = pipeline.behind
    if behind is None:
        if prior is not None:
            raise ModelError(f"DARKROOM_PRIOR: {folder} is a {pipeline.name}, which takes no prior; unset it.")
        return {}
    wanted = f"the folder of its prior, a {behind.name} (such as kandinsky-2-2-prior)"
    if prior is None:
        raise ModelError(f"{folder} is a decoder alone: set DARKROOM_PRIOR to {wanted}.")
    if not (prior / "model_index.json").is_file():
        raise ModelError(f"DARKROOM_PRIOR: {prior} is not in diffusers' layout; name {wanted}.")
    index = read(prior / "model_index.json")
    if index.get("_class_name") != behind.name:
        raise ModelError(f"DARKROOM_PRIOR: {prior} holds a {str(index.get('_class_name'))[:100]}; name {wanted}.")
    return {own: index.get(theirs) for own, theirs in behind.named.items()}
