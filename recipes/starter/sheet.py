"""Pictures for people: sheets of samples with their prompts, and the curve of a loss.

Knows Pillow and a pipeline's call; judges nothing.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

STEPS, GUIDANCE, SCHEDULER = 30, 3.0, "euler_a"
"""The defaults of the service with this model. A solver that adds noise draws rounder shapes and cleaner edges than
DPM-Solver++ 2M in 20 steps at guidance 4, and is right as often."""

SHEET_PROMPTS = (
    "a red circle on a blue background",
    "a green triangle on a yellow background",
    "a yellow star on a purple background",
    "a pink heart on a black background",
    "a blue square and a red heart on a white background",
    "three orange stars on a green background",
    "a cat on a yellow background",
    "a dog on a blue background",
    "a panda on a pink background",
    "a frog on a white background",
    "a penguin in the snow",
    "a lion in the desert",
    "an apple on a white background",
    "a slice of pizza on a green background",
    "two bananas on a pink background",
    "a sunflower on grass",
    "a rocket in space",
    "a car on grass",
    "a snowman at night",
    "an octopus underwater",
    "a small balloon in the sky",
    "a blue cat on an orange background",
    "a pencil sketch of a house on a white background",
    "pixel art of a robot on a cyan background",
)

Picture = NDArray[np.uint8]


def generate(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    width: int = 128,
    height: int = 128,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    rows: int = 12,
) -> list[Picture]:
    """A picture [H, W, 3] for each prompt and seed, `rows` at a time. Each has its own generator on the host.

    Drawn as the service does by default, whatever scheduler the pipeline came with.
    """
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pictures: list[Picture] = []
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        drawn = pipe(
            list(prompts[part]),
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="np",
        ).images
        pictures += list((drawn * 255).round().astype(np.uint8))
    return pictures


def draw_sheet(pipe: Any, prompts: Sequence[str], path: Path, *, steps: int = STEPS) -> None:
    pictures = generate(pipe, prompts, range(100, 100 + len(prompts)), steps=steps)
    save_sheet(pictures, prompts, path)


def save_sheet(pictures: Sequence[Picture], words: Sequence[str], path: Path, *, columns: int = 6) -> None:
    """Pictures in a grid, each over its words."""
    cell, label = 160, 28
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, said) in enumerate(zip(pictures, words, strict=True)):
        x, y = number % columns * cell, number // columns * (cell + label)
        image = Image.fromarray(picture)
        image.thumbnail((cell - 4, cell - 4))
        image = image if max(image.size) == cell - 4 else image.resize((cell - 4, cell - 4), Image.Resampling.BICUBIC)
        sheet.paste(image, (x + 2, y + 2))
        draw.multiline_text((x + 3, y + cell - 1), "\n".join(textwrap.wrap(said, 26)[:2]), fill="black", spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def draw_curve(log: Path, path: Path, *, width: int = 640, height: int = 320) -> None:
    """Loss over samples, both logarithmic, from a training's log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    points = [(math.log(line["samples"]), math.log(line["loss"])) for line in lines if line["loss"] > 0]
    image = Image.new("RGB", (width, height), "white")
    if len(points) > 1:
        (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
        across, up = (width - 20) / max(right - left, 1e-6), (height - 40) / max(high - low, 1e-6)
        curve = [(10 + (x - left) * across, 20 + (high - y) * up) for x, y in points]
        draw = ImageDraw.Draw(image)
        draw.line(curve, fill=(42, 98, 220), width=2)
        draw.text((10, 4), f"loss {math.exp(high):.3f} to {math.exp(low):.3f}", fill="black")
        draw.text((10, height - 14), f"{math.exp(left):.0f} to {math.exp(right):.0f} samples", fill="black")
    image.save(path)
