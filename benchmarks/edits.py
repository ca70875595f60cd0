"""Edits beside plain pictures, in one process on one machine: `python -m benchmarks.edits`.

A figure, never a gate. Prints markdown: what a step costs when a third of its samples start from a picture and a third
repaint one, or a third repaint one and a third have a LoRA, over the same step of plain samples; and what edits cost
from their pixels to their pictures, over as many plain evaluations, and over the stock pipelines one after the other.
All in turns, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.contract.messages.inputs import InputPicture, Lora
from benchmarks.engine import PROMPT, alternate, as_diffusers_loads, begin, sd_shaped, stepper
from benchmarks.loras import KINDS, with_lora
from benchmarks.report import Column, add_option
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, stock_pipeline

STRENGTH = 0.5

PLAIN: Sequence[str] = ("plain", "plain", "plain")
EDITS: Sequence[str] = ("plain", "from a picture", "repaint")
WITH_LORAS: Sequence[str] = ("plain", "repaint", "LoRA")
"""What every third request of a batch is."""

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
"""diffusers' for a plain picture, from a picture, and repainting one."""

STEPS = {
    "model": Column(label="model"),
    "plain_ms": Column(label="step, plain, ms", format=".1f"),
    "edits_ms": Column(label="two thirds edits, ms", format=".1f"),
    "edits": Column(label="a row costs", format=".3f"),
    "loras_ms": Column(label="a third edits, a third LoRAs, ms", format=".1f"),
    "loras": Column(label="a row costs", format=".3f"),
}

WHOLE = {
    "plain_s": Column(label="plain, s", format=".2f"),
    "edits_s": Column(label="two thirds edits, s", format=".2f"),
    "edits": Column(label="ratio", format=".3f"),
    "stock_s": Column(label="stock pipelines in turn, s", format=".2f"),
    "stock": Column(label="stock / engine", format=".3f"),
    "pairs": Column(label="pairs"),
}
"""Of whole requests, from pixels to pictures."""


def main() -> None:
    options = _parser().parse_args()
    model, report = begin("edits", options)
    report.note(f"{options.samples} samples, {options.rounds} rounds, LoRAs of {options.lora}")
    for bundle in (model, sd_shaped(model)):
        with tempfile.TemporaryDirectory() as folder:
            adapted = with_lora(bundle, Path(folder), *KINDS[options.lora])
            steppers = [_stepper(adapted, options, kinds) for kinds in (PLAIN, EDITS, WITH_LORAS)]
            plain, edits, loras = alternate(options.rounds, *steppers)
        report.add("steps", STEPS, model=bundle.name, plain_ms=1e3 * statistics.median(plain),
            edits_ms=1e3 * statistics.median(edits), edits=_ratio(edits, plain),
            loras_ms=1e3 * statistics.median(loras), loras=_ratio(loras, plain))  # fmt: skip
    asked = [_request(model, options, k, EDITS) for k in range(options.samples)]
    ways = _drawing(model, _as_long(asked)), _drawing(model, asked), _one_by_one(as_diffusers_loads(options), asked)
    plain, edits, stock = alternate(options.pairs, *ways)
    a, b, c = map(statistics.median, (plain, edits, stock))
    report.add("whole", WHOLE, plain_s=a, edits_s=b, edits=_ratio(edits, plain), stock_s=c,
        stock=_ratio(stock, edits), pairs=options.pairs)  # fmt: skip


def _as_long(asked: list[Request]) -> list[Request]:
    """Plain requests of as many evaluations."""
    plain = {"image": None, "mask_image": None, "strength": None, "pictures": {}}
    return [
        each.model_copy(update=plain | {"num_inference_steps": int(each.num_inference_steps * (each.strength or 1))})
        for each in asked
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--steps", type=int, default=30, help="of a request; edits take half of them")
    parser.add_argument("--samples", type=int, default=6, help="in a batch; a multiple of three")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind")
    parser.add_argument("--pairs", type=int, default=5, help="of whole batches")
    parser.add_argument("--scheduler", default="dpmpp_2m")
    parser.add_argument("--lora", choices=list(KINDS), default=next(iter(KINDS)))
    add_option(parser)
    return parser


def _request(bundle: Bundle, options: argparse.Namespace, k: int, kinds: Sequence[str]) -> Request:
    """The k-th of a batch in which every third is one of the three `kinds`."""
    kind = kinds[k % 3]
    width, height = bundle.defaults.width, bundle.defaults.height
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
    mask = np.repeat(np.where(x < width // 2, 255, 0).astype(np.uint8)[..., None], 3, -1)
    named = {"from a picture": {"image": picture}, "repaint": {"image": picture, "mask_image": mask}}.get(kind, {})
    stored = {name: _stored(pixels) for name, pixels in named.items()}
    return Request(
        id=str(k),
        prompt=PROMPT,
        negative_prompt="",
        width=width,
        height=height,
        num_inference_steps=options.steps,
        guidance_scale=4.0,
        scheduler=options.scheduler,
        seed=k,
        num_images=1,
        strength=STRENGTH if stored else None,
        pictures={stored[name].sha256: named[name] for name in stored},
        loras=(Lora(name="random", weight=0.5),) if kind == "LoRA" else (),
        **stored,
    )


def _stored(pixels: np.ndarray) -> InputPicture:
    height, width = pixels.shape[:2]
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return InputPicture(sha256=sha256, width=width, height=height, content_type="image/png")


def _stepper(bundle: Bundle, options: argparse.Namespace, kinds: Sequence[str]) -> Callable[[], None]:
    requests = [_request(bundle, options, k, kinds) for k in range(options.samples)]
    return stepper(family_of(bundle), requests, options.samples)


def _drawing(bundle: Bundle, requests: list[Request]) -> Callable[[], None]:
    engine = Engine(family_of(bundle), seats=len(requests))

    def draw() -> None:
        for request in requests:
            engine.submit(request)
        ends = []
        while not engine.idle:
            ends += [event for event in engine.step() if isinstance(event, Finished)]
        assert len(ends) == len(requests)

    return draw


def _one_by_one(bundle: Bundle, requests: list[Request]) -> Callable[[], None]:
    """diffusers' inpainting takes a UNet of four channels or nine: another one starts from the picture instead, in as
    many evaluations."""
    pipelines = {name: stock_pipeline(bundle, requests[0].scheduler, name) for name in PIPELINES}
    repaints = bundle.unet.config.in_channels in (4, 9)

    def draw() -> None:
        for request in requests:
            given, kind = _given(request if repaints else request.model_copy(update={"mask_image": None}))
            pipelines[PIPELINES[kind]](**given)

    return draw


def _given(request: Request) -> tuple[dict[str, Any], int]:
    """What the stock pipeline is called with, and which of PIPELINES it is."""
    given: dict[str, Any] = {
        "prompt": request.prompt,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator().manual_seed(request.seed),
        "output_type": "np",
    }
    sides = {"width": request.width, "height": request.height}
    if request.image is None:
        return given | sides, 0
    edit = given | {"image": Image.fromarray(request.pictures[request.image.sha256]), "strength": request.strength}
    if request.mask_image is None:
        return edit, 1
    return edit | sides | {"mask_image": Image.fromarray(request.pictures[request.mask_image.sha256])}, 2


def _ratio(of: list[float], over: list[float]) -> float:
    """Of each round, since machines are noisy."""
    return statistics.median(a / b for a, b in zip(of, over, strict=True))


if __name__ == "__main__":
    main()
