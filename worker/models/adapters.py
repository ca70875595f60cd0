"""What lies in the folders of adapters beside a model, judged by the model's own layers.

Needs torch; reads headers of files and no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from worker.models.adapter_folder import Shelf, look_into
from worker.models.embedding_file import EmbeddingFile, read_embedding
from worker.models.folder import ModelFolder
from worker.models.lora_file import LoraFile, read_lora
from worker.models.lora_names import Spellings
from worker.models.quiet import quiet_libraries
from worker.models.shapes import empty_part, layer_shapes

ADAPTED = ("unet", "text_encoder", "text_encoder_2")


def adapters_beside(folder: ModelFolder, *, loras: Path | None, embeddings: Path | None) -> dict[str, Shelf[Any]]:
    """What a start of this model would find, without its weights: by what the shelf is of. Raises ModelError."""
    if loras is None and embeddings is None:
        return {}
    with quiet_libraries():
        parts = {name: empty_part(folder, name) for name in folder.weighted if name in ADAPTED}
    shelves: dict[str, Shelf[Any]] = {}
    if loras is not None:
        shelves["loras"] = loras_of(parts, loras)
    if embeddings is not None:
        shelves["embeddings"] = embeddings_of(parts, embeddings)
    return shelves


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
