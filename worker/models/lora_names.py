"""How LoRA files spell the layers of a model: diffusers' paths with dots, kohya's with underscores, Stability's blocks.

Knows spellings. Knows no files and imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Shapes = Mapping[str, tuple[int, ...]]
"""Of the weights [out, in, *kernel] of all linear and convolution layers of a network, by their paths in it."""

KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
"""Prefixes of kohya's sd-scripts, which most trainers write."""

_DOTTED = {"unet.": "unet", "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2"}
_OF_PEFT = "base_model.model."

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_AT_THE_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNETS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OLD_ATTENTION = re.compile(r"(attn\d)\.to_out$")
_OLD_TEXT = re.compile(r"(self_attn)\.to_(q|k|v|out)$")


class Spellings:
    """Finds a model's layers by what LoRA files call them."""

    def __init__(self, parts: Mapping[str, Shapes], *, layers_per_block: int | None) -> None:
        """`parts` are the networks that can be adapted, by their names in the model's folder. `layers_per_block` is
        the UNet's, None where it differs from block to block: then Stability's names are not understood."""
        self.parts = parts
        self._paths = {part: dict(_of_unet(shapes, layers_per_block)) for part, shapes in parts.items()}
        self._paths |= {part: dict(_of_text(shapes)) for part, shapes in parts.items() if part != "unet"}

    def layer(self, spelled: str) -> tuple[str, str] | None:
        """The part and the path of a layer in it; None for a layer that the model has not."""
        part, rest = _split(spelled)
        path = self._paths.get(part, {}).get(rest)
        return None if path is None else (part, path)


def _split(spelled: str) -> tuple[str, str]:
    """The part, and the rest as one of the spellings below."""
    for prefix, part in KOHYA.items():
        if spelled.startswith(prefix):
            return part, spelled.removeprefix(prefix)
    spelled = spelled.removeprefix(_OF_PEFT)
    for prefix, part in _DOTTED.items():
        if spelled.startswith(prefix):
            rest = spelled.removeprefix(prefix).removeprefix(_OF_PEFT)
            return part, _modern(rest) if part == "unet" else _modern_text(rest)
    return "unet", _modern(spelled)


def _modern(path: str) -> str:
    """Of diffusers before 0.22, where adapters were processors of their attention."""
    return _OLD_ATTENTION.sub(r"\1.to_out.0", path.replace(".processor.", "."))


def _modern_text(path: str) -> str:
    return _OLD_TEXT.sub(r"\1.\2_proj", path.removeprefix("text_model."))


def _of_unet(shapes: Shapes, layers_per_block: int | None) -> Iterator[tuple[str, str]]:
    """Spellings of each layer, and its path."""
    for path in shapes:
        yield path, path
        yield path.replace(".", "_"), path
        name = None if layers_per_block is None else _of_stability(path, layers_per_block, shapes)
        if name is not None:
            yield name, path
            yield name.replace(".", "_"), path


def _of_text(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """transformers has the encoder as a part named text_model in some classes and releases, and not in others."""
    for path in shapes:
        plain = path.removeprefix("text_model.")
        yield plain, path
        yield plain.replace(".", "_"), path
        yield f"text_model_{plain.replace('.', '_')}", path


def _of_stability(path: str, layers: int, shapes: Shapes) -> str | None:
    """As the UNet of Stability's own code calls it, which kohya trains SDXL on: blocks counted through."""
    if path in _AT_THE_ENDS:
        return _AT_THE_ENDS[path]
    if middle := _MIDDLE.fullmatch(path):
        kind, number, inner = middle.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inner(kind, inner)}"
    block = _BLOCK.fullmatch(path)
    if block is None:
        return None
    side, level, kind, number, inner = block.groups()
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op"
    if kind == "upsamplers":
        after = 2 if any(each.startswith(f"up_blocks.{level}.attentions.") for each in shapes) else 1
        return f"output_blocks.{int(level) * (layers + 1) + layers}.{after}.{inner}"
    first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
    place = first[1] + int(level) * (layers + 1) + int(number)
    return f"{first[0]}.{place}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    return _IN_RESNETS.get(inner, inner) if kind == "resnets" else inner
