"""What lies in the folders of adapters beside a model, judged by the model's own layers.

Needs torch; reads headers of files and no weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from app.contract.messages.inputs import MOST_LORAS
from worker.models.adapter_folder import Shelf, look_into
from worker.models.embedding_file import EmbeddingFile, read_embedding
from worker.models.folder import ModelFolder
from worker.models.lora_file import LoraFile, read_lora
from worker.models.lora_names import Spellings
from worker.models.quiet import quiet_libraries
from worker.models.shapes import empty_part, layer_shapes

WORKING_SET = 128
"""Columns of the bank, unless there are adapters for less, or the largest request needs more: eight LoRAs of rank 16.
With SDXL a column takes some 7 MB in float16."""

ADAPTED = ("unet", "text_encoder", "text_encoder_2")


def adapters_beside(
    folder: ModelFolder, *, loras: Path | None, embeddings: Path | None
) -> tuple[dict[str, Shelf[Any]], int]:
    """What a start of this model would find, without its weights: by what the shelf is of; and how many numbers the
    bank of its LoRAs has. Raises ModelError."""
    if loras is None and embeddings is None:
        return {}, 0
    with quiet_libraries():
        parts = {name: empty_part(folder, name) for name in folder.weighted if name in ADAPTED}
    shelves: dict[str, Shelf[Any]] = {}
    if loras is not None:
        shelves["loras"] = loras_of(parts, loras)
    if embeddings is not None:
        shelves["embeddings"] = embeddings_of(parts, embeddings)
    return shelves, bank_values(shelves["loras"].served, parts["unet"]) if loras is not None else 0


def bank_columns(files: Mapping[str, LoraFile]) -> int:
    """Columns that the bank of all these has: one for each rank of those that are in use together."""
    ranks = sorted((file.rank for file in files.values()), reverse=True)
    return min(sum(ranks), max(WORKING_SET, sum(ranks[:MOST_LORAS])))


def bank_paths(files: Mapping[str, LoraFile]) -> list[str]:
    """Layers of the UNet that any of them changes."""
    return sorted({layer.path for file in files.values() for layer in file.layers if layer.part == "unet"})


def bank_values(files: Mapping[str, LoraFile], unet: Any) -> int:
    """Numbers in the bank of all these, in the UNet's type; `unet` may be without values on the meta device."""
    weights = [unet.get_submodule(path).weight.shape for path in bank_paths(files)]
    columns = bank_columns(files)
    return (1 + columns) * sum(shape[0] + math.prod(shape[1:]) for shape in weights) if columns else 0


def embeddings_of(parts: Mapping[str, Any], folder: Path | None) -> Shelf[EmbeddingFile]:
    """The same of textual inversions."""
    encoders = {name: part for name, part in parts.items() if name.startswith("text_encoder") and part is not None}
    widths = {name: int(part.get_input_embeddings().weight.shape[1]) for name, part in encoders.items()}
    return look_into(folder, partial(read_embedding, widths=widths), setting="DARKROOM_EMBEDDINGS")


def loras_of(parts: Mapping[str, Any], folder: Path | None) -> Shelf[LoraFile]:
    """The LoRAs of `folder` that fit the model with these parts, which may be without values on the meta device.
    Raises ModelError where the folder is none."""
    if folder is None:
        return Shelf()
    shapes = {name: layer_shapes(parts[name]) for name in ADAPTED if parts.get(name) is not None}
    layers = parts["unet"].config.layers_per_block
    spellings = Spellings(shapes, layers_per_block=layers if isinstance(layers, int) else None)
    return look_into(folder, partial(read_lora, spellings=spellings), setting="DARKROOM_LORAS")
