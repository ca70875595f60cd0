"""What a model needs of memory, told from its configuration and its files' headers before anything is loaded.

Knows numbers of values and how wide layers are. Refuses to know a device: how much there is, others say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.machine import Room
from worker.models.configs import Config, last_network, part_dtype, pixels_per_latent
from worker.models.defaults import Defaults
from worker.models.folder import ModelFolder

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

DECODE_WIDTHS = 5.0
"""Values that a decode holds at most for each pixel, in widths of its widest layer of full size. Measured on a CPU with
a VAE of Stable Diffusion's shape, float32, as the growth of the process: 4.8 at 256 pixels, 3.8 at 512 and at 1024."""

# An encode takes less than the decode of the same picture, and never comes beside one: 2.5 widths of the same layer at
# 256 and at 512 pixels, measured in the same way.

ROW_WIDTHS = 50.0
"""The same of a row of the UNet, for each latent and in widths of its first layer: 49 with one row and 50 with two, at
512 pixels."""

PRIOR_WIDTHS = 16.0
"""Values that a row of a prior holds at most for each token, in widths of the transformer: its feed-forward part has
four, twice, beside what enters and leaves. Reckoned, not measured: it is a thousandth of the UNet's."""

PROCESS = 0.7e9
"""Bytes of a worker without a model: Python, torch, diffusers."""


@dataclass(frozen=True, slots=True)
class Need:
    """In bytes, for one guided picture of the native size: `weights`, then `step` or `decode` beside them.

    `dtype` is the model's, in torch's words.
    """

    weights: float
    step: float
    decode: float
    dtype: str


def need_of(
    folder: ModelFolder, configs: Mapping[str, Config], elements: Mapping[str, int], defaults: Defaults, dtype: str
) -> Need:
    """`elements` are the numbers in the weights of each part."""
    scale, network = pixels_per_latent(configs), last_network(configs)
    decode = 0.0
    if "vae" in configs:
        itemsize = BYTES[part_dtype(folder, "vae", dtype)]
        decode = decode_bytes(configs["vae"], defaults.height, defaults.width, itemsize)
    kept = {part: count for part, count in elements.items() if part not in folder.pipeline.seldom}
    return Need(
        weights=sum(count * BYTES[part_dtype(folder, part, dtype)] for part, count in kept.items()),
        step=2 * row_bytes(network, defaults.height // scale, defaults.width // scale, BYTES[dtype]),
        decode=decode,
        dtype=dtype,
    )


def decode_bytes(vae: Config, height: int, width: int, itemsize: int) -> float:
    """That decoding one picture of so many pixels needs beside the weights."""
    channels = vae.get("decoder_block_out_channels") or vae["block_out_channels"]
    # The last block is handed what the one before it has enlarged.
    widest = max(channels[:2])
    return DECODE_WIDTHS * widest * height * width * itemsize


def row_bytes(unet: Config, height: int, width: int, itemsize: int) -> float:
    """That one row of a step needs beside the weights; sides are in latents."""
    return ROW_WIDTHS * unet["block_out_channels"][0] * height * width * itemsize


def prior_row_bytes(prior: Config, itemsize: int) -> float:
    """The same of a row of a prior, for each of its tokens and in widths of the transformer."""
    width = prior["num_attention_heads"] * prior["attention_head_dim"]
    tokens = prior["num_embeddings"] + prior["additional_embeddings"]
    return float(PRIOR_WIDTHS * width * tokens * itemsize)


@dataclass(frozen=True, slots=True)
class Rooms:
    """The memory there is: `lasting` for the model, and the machine's own, `passing`, through which its weights come
    to a GPU."""

    lasting: Room
    passing: Room | None = None

    def faults(self, need: Need, name: object) -> Iterator[str]:
        """A sentence for each room in which the model can never be: whatever else ends, and in the smallest tiles."""
        for room, least, _ in self._compared(need):
            if least > room.most:
                yield f"{name} needs {_told(need, least)}, and {room.of} has {_gb(room.most)}; {_smaller(need)}."

    def notes(self, need: Need, name: object) -> Iterator[str]:
        """A sentence for each room in which it is close: less is free now than drawing usually takes."""
        for room, least, usual in self._compared(need):
            if least <= room.most and usual > room.free:
                yield (
                    f"{name} needs {_told(need, usual)}, and only {_gb(room.free)} of {room.of} is free: the worker "
                    f"may be killed; end other programs, or {_smaller(need)}."
                )

    def _compared(self, need: Need) -> Iterator[tuple[Room, float, float]]:
        """Each room, and what the model needs of it: at least, and usually."""
        yield self.lasting, PROCESS + need.weights + need.step, PROCESS + need.weights + max(need.step, need.decode)
        if self.passing:
            yield self.passing, PROCESS + need.weights, PROCESS + need.weights


def no_room(need: Need, name: object) -> str:
    """The sentence for a model whose loading ran out of memory."""
    return (
        f"There is not enough memory to load {name}: it needs {_told(need, PROCESS + need.weights)}; {_smaller(need)}."
    )


def _told(need: Need, size: float) -> str:
    return f"{_gb(size)} of memory ({_gb(need.weights)} of weights as {need.dtype})"


def _smaller(need: Need) -> str:
    halved = "set DARKROOM_DTYPE=bfloat16, which halves it, or " if need.dtype == "float32" else ""
    return f"{halved}take a smaller model or a larger machine"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
