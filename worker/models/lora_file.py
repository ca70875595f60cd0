"""LoRA files (Hu et al. 2021): told by their headers which layers of a model they change; read when they are used.

A layer's weights W [out, in, ...] become W + weight * alpha / r * up @ down, with down [r, in, ...] and up [out, r].
Both common spellings are read (lora_names.py). What is no such product is refused by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.models.errors import ModelError
from worker.models.headers import Tensor, read_whole_header
from worker.models.lora_names import Spellings

MOST_TRIGGER_WORDS = 8
LONGEST_TRIGGER_WORD = 60
"""Characters. A model's card carries them, and every answer about the model the card."""

_FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora_linear_layer|\.lora|_lora)?\.(?:lora_)?(?P<role>down|A|up|B)(?:\.default)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.lora_linear_layer|\.lora|_lora)?\.alpha")
_ROLES = {"down": "down", "A": "down", "up": "up", "B": "up"}

_OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "lora_mid": "a LoRA with a Tucker core",
    "on_input": "an (IA)^3",
    "lora_B.bias": "a LoRA with biases",
    ".diff": "a LoRA with whole differences of weights",
}
"""By what some of their tensors are called. None of them can be added to the rows of a batch as a product."""

Factors = tuple[Any, Any]
"""Of a layer: torch tensors down [r, in, *kernel] and up [r, out] on the host, with alpha / r in `up`."""

_ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers, since 0.34, writes PEFT's configuration of each part."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What a file has for one layer of a model: `part` and `path` in it, and the names of the tensors. `alpha` is the
    name of one as well, or the number; None where it is the rank."""

    part: str
    path: str
    down: str
    up: str
    alpha: str | float | None
    rank: int


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One that fits the model. `tensors` is its header, by which it is known again."""

    name: str
    path: Path
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    trigger_words: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest of its layers in the UNet; 0 where it changes none."""
        return max((layer.rank for layer in self.layers if layer.part == "unet"), default=0)

    @property
    def reads_text(self) -> bool:
        """It changes a text encoder."""
        return any(layer.part != "unet" for layer in self.layers)


def read_lora(name: str, path: Path, spellings: Spellings) -> LoraFile:
    """What the header tells. Raises ModelError, HeaderError and OSError for a file that cannot be served."""
    tensors, said = read_whole_header(path)
    factors, alphas = _by_layer(path, tensors)
    layers = tuple(_layer(path, spelled, factors[spelled], alphas, tensors, spellings, said) for spelled in factors)
    twice = [layer for layer, count in Counter((each.part, each.path) for each in layers).items() if count > 1]
    if twice:
        raise ModelError(f"{path} has the layer {'.'.join(twice[0])} twice, in two spellings; fetch the file again.")
    return LoraFile(name, path, layers, tensors, _trigger_words(said))


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """A file, read: the factors of its layers, for each part by path."""

    sha256: str
    parts: Mapping[str, Mapping[str, Factors]]


def load_lora(file: LoraFile) -> LoraWeights:
    """Read the whole file. Raises ModelError if it is not the one whose header was read, and OSError."""
    from safetensors.torch import load

    data = file.path.read_bytes()
    try:
        tensors = load(data)
    except Exception as error:
        raise ModelError(f"The LoRA {file.name} was changed while the worker ran and cannot be read.") from error
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != {
        name: tensor.shape for name, tensor in file.tensors.items()
    }:
        raise ModelError(f"The LoRA {file.name} was changed while the worker ran; the worker has to be started again.")
    parts: dict[str, dict[str, Factors]] = {}
    for layer in file.layers:
        alpha = tensors[layer.alpha].item() if isinstance(layer.alpha, str) else layer.alpha
        scale = 1.0 if alpha is None else alpha / layer.rank
        factors = tensors[layer.down], tensors[layer.up].float().flatten(1).T * scale
        parts.setdefault(layer.part, {})[layer.path] = factors
    return LoraWeights(hashlib.sha256(data).hexdigest(), parts)


def _by_layer(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Names of tensors by the layers as they are spelled: {layer: {"down": …, "up": …}} and {layer: alpha}."""
    factors: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for name in tensors:
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(found["layer"], {})[_ROLES[found["role"]]] = name
        elif found := _ALPHA.fullmatch(name):
            alphas[found["layer"]] = name
        else:
            raise ModelError(_foreign_tensor(path, name))
    halves = [layer for layer, roles in factors.items() if len(roles) < 2]
    if halves or not factors:
        what = f"has only half of the layer {halves[0]}" if halves else "has no layers of a LoRA in it"
        raise ModelError(f"{path} {what}; fetch the file again.")
    return factors, alphas


def _foreign_tensor(path: Path, name: str) -> str:
    kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in name), None)
    if kind is None:
        return f"{path} is no LoRA that can be served: it has a tensor {name[:100]}; take it out of the folder."
    return (
        f"{path} is {kind}, which is no product of two small matrices for each layer and cannot share a batch; "
        "merge it into a model of its own."
    )


def _layer(
    path: Path,
    spelled: str,
    roles: Mapping[str, str],
    alphas: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    spellings: Spellings,
    said: Mapping[str, str],
) -> Layer:
    found = spellings.layer(spelled)
    if found is None:
        raise ModelError(f"{path} was made for another kind of model: this one has no {spelled[:100]}; take it out.")
    part, own = found
    weights = spellings.parts[part][own]
    down, up = tensors[roles["down"]].shape, tensors[roles["up"]].shape
    rank, fits = down[0] if down else 0, False
    if rank and len(down) >= 2 and len(up) >= 2:
        # A convolution of 1 x 1 and a linear layer are the same, and files have either for the other.
        fits = _without_ones(down) == (rank, *_without_ones(weights)[1:]) and _without_ones(up) == (weights[0], rank)
    if not fits:
        raise ModelError(
            f"{path} was made for another model: its {spelled[:100]} is {list(up)} by {list(down)}, the layer here is "
            f"{list(weights)}; take it out."
        )
    alpha = alphas.get(spelled) or _alpha_of_peft(said, part, own, rank)
    if isinstance(alpha, str) and tensors[alpha].elements != 1:
        raise ModelError(f"{path} has an alpha that is no number, {alpha[:100]}; fetch the file again.")
    return Layer(part, own, roles["down"], roles["up"], alpha, rank)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel of 1 x 1 left out."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _alpha_of_peft(said: Mapping[str, str], part: str, path: str, rank: int) -> float | None:
    """What PEFT's configuration, as diffusers writes it, says of a layer; None where it says nothing."""
    try:
        all_parts = json.loads(said.get(_ADAPTER_METADATA, "{}"))
        patterns = all_parts.get(f"{part}.alpha_pattern") or {}
        alpha = next((each for name, each in patterns.items() if path == name or path.endswith(f".{name}")), None)
        alpha = all_parts.get(f"{part}.lora_alpha") if alpha is None else alpha
        rank_stabilized = all_parts.get(f"{part}.use_rslora") is True
        return None if alpha is None else float(alpha) * (math.sqrt(rank) if rank_stabilized else 1.0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _trigger_words(said: Mapping[str, str]) -> tuple[str, ...]:
    """What its trainer wrote down: the phrase of Stability's model specification, or the captions' words by kohya."""
    phrase = said.get("modelspec.trigger_phrase", "")
    words = [word.strip() for word in phrase.split(",")] if phrase else _most_frequent(said.get("ss_tag_frequency", ""))
    fit = (word for word in dict.fromkeys(words) if word and len(word) <= LONGEST_TRIGGER_WORD and word.isprintable())
    return tuple(fit)[:MOST_TRIGGER_WORDS]


def _most_frequent(tags: str) -> list[str]:
    """Of `{folder: {tag: how often}}`."""
    count: Counter[str] = Counter()
    try:
        for folder in json.loads(tags or "{}").values():
            count.update({str(tag).strip(): int(often) for tag, often in folder.items()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []
    return [tag for tag, _ in count.most_common(MOST_TRIGGER_WORDS)]
