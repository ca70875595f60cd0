"""Textual inversions (Gal et al. 2022): vectors for words that a text encoder has not learned, as safetensors files.

Two forms are common: one tensor [n, width] by any name (the token's in diffusers, `emb_params` elsewhere), and
`clip_l` with `clip_g` for SDXL's two text encoders. The name of the file is the word. Knows no prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.models.errors import ModelError
from worker.models.headers import Tensor, read_header

OF_SDXL = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Names of the tensors, by the part that they are for."""

MOST_VECTORS = 75
"""What a text encoder reads at once. Usual are 1 to 16."""


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One that fits the model: names of its tensors by part, and how many vectors each of them has."""

    name: str
    path: Path
    tensors: Mapping[str, str]
    vectors: int


@dataclass(frozen=True, slots=True)
class Word:
    """A file in use: the ids of its vectors, which follow each other, in every text encoder of the model."""

    ids: range
    sha256: str


def read_embedding(name: str, path: Path, widths: Mapping[str, int]) -> EmbeddingFile:
    """What the header tells, for text encoders of these widths by part. Raises ModelError, HeaderError and OSError."""
    tensors = read_header(path)
    named = _by_part(path, tensors, widths)
    shapes = {part: tensors[each].shape for part, each in named.items()}
    for part, shape in shapes.items():
        if not 1 <= len(shape) <= 2 or shape[-1] != widths[part]:
            raise ModelError(
                f"{path} was made for another model: its {named[part][:100]} is {list(shape)}, the {part} here reads "
                f"vectors of {widths[part]}; take it out."
            )
    counts = {shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}
    if len(counts) > 1 or not 1 <= min(counts) <= MOST_VECTORS:
        raise ModelError(f"{path} has {' and '.join(map(str, sorted(counts)))} vectors; fetch the file again.")
    return EmbeddingFile(name, path, named, counts.pop())


def _by_part(path: Path, tensors: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, str]:
    is_of_sdxl = set(tensors) == set(OF_SDXL.values())
    if is_of_sdxl and len(widths) == 2:
        return dict(OF_SDXL)
    if len(tensors) == 1 and len(widths) == 1:
        return {next(iter(widths)): next(iter(tensors))}
    if is_of_sdxl or (len(tensors) == 1 and len(widths) == 2):
        kinds = ("one text encoder", "two")
        made, here = kinds if len(tensors) == 1 else reversed(kinds)
        raise ModelError(f"{path} was made for a model with {made}, this one has {here}; take it out.")
    raise ModelError(f"{path} is no textual inversion: it has {len(tensors)} tensors; take it out of the folder.")


def load_words(files: Mapping[str, EmbeddingFile], parts: Mapping[str, Any]) -> dict[str, Word]:
    """Read the files and put their vectors behind those that the text encoders have learned. By name.

    Raises ModelError for a file that was changed meanwhile, and OSError.
    """
    if not files:
        return {}
    import torch
    from safetensors.torch import load

    encoders = {part: parts[part] for part in next(iter(files.values())).tensors}
    tables = {part: encoder.get_input_embeddings().weight for part, encoder in encoders.items()}
    first = max(len(table) for table in tables.values())
    rows = {part: [table, table.new_zeros(first - len(table), table.shape[1])] for part, table in tables.items()}
    words: dict[str, Word] = {}
    for name, file in files.items():
        data = file.path.read_bytes()
        try:
            tensors = load(data)
            vectors = {part: tensors[each].view(file.vectors, -1) for part, each in file.tensors.items()}
        except Exception as error:
            raise ModelError(f"{file.path} was changed while it was read; start again.") from error
        for part, own in vectors.items():
            rows[part].append(own.to(tables[part]))
        words[name] = Word(range(first, first + file.vectors), hashlib.sha256(data).hexdigest())
        first += file.vectors
    for part, encoder in encoders.items():
        table = torch.nn.Parameter(torch.cat(rows[part]), requires_grad=False)
        encoder.set_input_embeddings(torch.nn.Embedding(*table.shape, _weight=table, _freeze=True))
        _find_the_end_by_its_id(encoder, parts[part.replace("text_encoder", "tokenizer")].eos_token_id)
    return words


def _find_the_end_by_its_id(encoder: Any, end: int) -> None:
    """CLIP's old configurations say 2, upon which transformers takes the token with the largest id for the end: that is
    one of ours now."""
    network = getattr(encoder, "text_model", encoder)
    if network.eos_token_id == 2:
        network.eos_token_id = end
