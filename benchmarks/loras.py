"""LoRA rows beside plain ones, in one process on one machine: `python -m benchmarks.loras`.

A figure, never a gate. Prints markdown: what a step costs when a third of its samples have a LoRA, over the same step
of plain samples; in turns, so that a busy machine slows both. Files with random factors are written for it: of
attention at rank 16, of attention and feed-forward at rank 32, and of every layer, convolutions too, at rank 64 (what
LCM-LoRA changes). On a CPU the process's own time counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from app.contract.messages.inputs import Lora
from benchmarks.engine import PROMPT, begin, sd_shaped, stepper
from benchmarks.report import Column, add_option
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.adapters import loras_of
from worker.models.bundle import Bundle
from worker.models.shapes import layer_shapes

KINDS: dict[str, tuple[int, Callable[[str], bool]]] = {
    "attention, rank 16": (16, lambda path: ".attn" in path),
    "attention and feed-forward, rank 32": (32, lambda path: ".attn" in path or ".ff." in path),
    "every layer, rank 64": (64, lambda path: True),
}


STEPS = {
    "model": Column(label="model"),
    "lora": Column(label="LoRA"),
    "samples": Column(label="samples"),
    "plain_ms": Column(label="step, plain, ms", format=".1f"),
    "mixed_ms": Column(label="step, a third with it, ms", format=".1f"),
    "ratio": Column(label="a row costs", format=".3f"),
    "rounds": Column(label="rounds"),
}


def main() -> None:
    options = _parser().parse_args()
    model, report = begin("loras", options)
    for bundle in (model, sd_shaped(model)):
        for kind, (rank, chosen) in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                plain, mixed = _measured(with_lora(bundle, Path(folder), rank, chosen), options)
            ratio = statistics.median(b / a for a, b in zip(plain, mixed, strict=True))
            report.add("steps", STEPS, model=bundle.name, lora=kind, samples=options.samples,
                plain_ms=_ms(plain), mixed_ms=_ms(mixed), ratio=ratio, rounds=options.rounds)  # fmt: skip


def with_lora(bundle: Bundle, folder: Path, rank: int, chosen: Callable[[str], bool]) -> Bundle:
    """The model with a LoRA `random`, written into `folder`, for the layers of the UNet whose paths are `chosen`."""
    tensors = {}
    for path, (out, *inner) in layer_shapes(bundle.unet).items():
        if chosen(path):
            tensors[f"unet.{path}.lora_A.weight"] = torch.randn(rank, *inner) / 100
            tensors[f"unet.{path}.lora_B.weight"] = torch.randn(out, rank, *[1] * (len(inner) - 1)) / 100
    save_file(tensors, folder / "random.safetensors")
    shelf = loras_of({"unet": bundle.unet}, folder)
    assert not shelf.faults, shelf.faults
    return dataclasses.replace(bundle, loras=shelf.served)


def _measured(bundle: Bundle, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of the steps of plain samples, and of those with a third of LoRA rows, in turns."""
    family = family_of(bundle)
    lora = (Lora(name="random", weight=0.5),)
    plain, mixed = (
        [_request(bundle, options, k, lora if third and k % 3 == 0 else ()) for k in range(options.samples)]
        for third in (False, True)
    )
    steppers = [stepper(family, requests, options.samples) for requests in (plain, mixed)]
    clock = time.process_time if bundle.device.type == "cpu" else time.perf_counter
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(options.rounds):
        for step, own in zip(steppers, seconds, strict=True):
            began = clock()
            step()
            own.append(clock() - began)
    return seconds


def _request(bundle: Bundle, options: argparse.Namespace, k: int, loras: tuple[Lora, ...]) -> Request:
    return Request(
        id=f"{k}-{len(loras)}-{id(options)}",
        prompt=PROMPT,
        negative_prompt="",
        width=bundle.defaults.width,
        height=bundle.defaults.height,
        num_inference_steps=1_000,
        guidance_scale=4.0,
        scheduler="ddim",
        seed=k,
        num_images=1,
        loras=loras,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--samples", type=int, default=6, help="in a batch; a multiple of three")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind")
    add_option(parser)
    return parser


def _ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    main()
