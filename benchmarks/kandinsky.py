"""`python -m benchmarks.kandinsky FOLDER`: a small picture by a Kandinsky 2.2 of the published size, of random weights.

Says what memory and time a model of some five billion numbers takes on this machine's CPU, in bfloat16: writing it,
loading it, and drawing in a few steps. The picture is noise. FOLDER gets ten gigabytes and keeps them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from app.contract.messages.unclip import Prior
from benchmarks.report import Column, Report, add_option
from worker.engine.engine import Engine
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries

TOKENIZER = Path(__file__).parents[1] / "models" / "starter" / "tokenizer"
SIDE, STEPS = 128, 2
"""Pixels; and inference steps of prior and decoder each."""

BLOCK = 1 << 20
"""Random numbers that are repeated: what they are does not matter, and a billion of them take a minute."""

STAGES = {
    "what": Column(label=""),
    "seconds": Column(label="on the clock, s", format=".0f"),
    "cpu_seconds": Column(label="processor time, s", format=".0f"),
    "peak_gb": Column(label="the most memory of the process so far, GB", format=".2f"),
}


def main() -> None:
    """Write what is missing, load, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_option(parser)
    options = parser.parse_args()
    folder, report = options.folder, Report("kandinsky", options.json)
    if not (folder / "decoder" / "model_index.json").is_file():
        with quiet_libraries(), _measured(report, "write"):
            _write(folder)
    with quiet_libraries(), _measured(report, "load"):
        bundle = load(folder / "decoder", prior=folder / "prior", dtype="bfloat16")
    report.note(f"Weights of {bundle.weights_bytes / 1e9:.2f} GB")
    engine = Engine(family_of(bundle))
    with _measured(report, "draw"):
        engine.submit(_request())
        events = []
        while not engine.idle:
            events += engine.step()
    last = events[-1]
    assert isinstance(last, Finished), last
    report.note(f"{last.pictures[0].shape}, seconds: {vars_of(last.timings)}")


def vars_of(timings: Any) -> dict[str, float]:
    """Seconds, by what they were spent on."""
    return {name: round(getattr(timings, name), 1) for name in ("encode", "denoise", "decode", "wall")}


@contextmanager
def _measured(report: Report, what: str) -> Iterator[None]:
    began, cpu = time.monotonic(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds, of_cpu = time.monotonic() - began, time.process_time() - cpu
    report.add("stages", STAGES, what=what, seconds=seconds, cpu_seconds=of_cpu, peak_gb=peak)


def _request() -> Request:
    return Request(
        id="a", prompt="a red circle", negative_prompt=None, width=SIDE, height=SIDE, num_inference_steps=STEPS,
        guidance_scale=4.0, scheduler="ddim", seed=0, num_images=1, prior=Prior(num_inference_steps=STEPS),
    )  # fmt: skip


def _write(folder: Path) -> None:
    """Prior and decoder side by side. One part in memory at a time."""
    makers: dict[str, Callable[[], Any]] = {
        "prior/prior": _prior,
        "prior/image_encoder": _image_encoder,
        "prior/text_encoder": _text_encoder,
        "decoder/unet": _unet,
        "decoder/movq": _movq,
    }
    for name, make in makers.items():
        _random(make).save_pretrained(folder / name, safe_serialization=True)
    # The bundled model reads less at once than CLIP.
    tokenizer = transformers.CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    tokenizer.save_pretrained(folder / "prior/tokenizer")
    transformers.CLIPImageProcessorPil().save_pretrained(folder / "prior/image_processor")
    diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    ).save_pretrained(folder / "prior/scheduler")
    diffusers.DDPMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample_range=2.0, variance_type="learned_range"
    ).save_pretrained(folder / "decoder/scheduler")
    _index(folder / "prior", "KandinskyV22PriorPipeline", {
        "prior": ("diffusers", "PriorTransformer"), "scheduler": ("diffusers", "UnCLIPScheduler"),
        "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
        "image_processor": ("transformers", "CLIPImageProcessor"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"), "tokenizer": ("transformers", "CLIPTokenizer"),
    })  # fmt: skip
    _index(folder / "decoder", "KandinskyV22Pipeline", {
        "movq": ("diffusers", "VQModel"), "scheduler": ("diffusers", "DDPMScheduler"),
        "unet": ("diffusers", "UNet2DConditionModel"),
    })  # fmt: skip


def _index(folder: Path, pipeline: str, parts: dict[str, tuple[str, str]]) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **parts}, indent=2))


@torch.no_grad()
def _random(make: Callable[[], Any]) -> Any:
    """A network with small random weights, in bfloat16; it is never initialised, which would take minutes."""
    with torch.device("meta"):
        network = make()
    network = network.to(torch.bfloat16).to_empty(device="cpu")
    block = torch.randn(BLOCK).mul(0.02).to(torch.bfloat16)
    for name, weight in network.named_parameters():
        if weight.dim() < 2:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        flat = weight.view(-1)
        for start in range(0, len(flat), BLOCK):
            flat[start : start + BLOCK] = block[: len(flat) - start]
    for _, buffer in network.named_buffers():
        buffer.copy_(torch.arange(buffer.numel()).view_as(buffer) if not buffer.is_floating_point() else 0)
    return network


def _prior() -> Any:
    return diffusers.PriorTransformer(embedding_dim=1280)


def _text_encoder() -> Any:
    """OpenCLIP's bigG, its texts' side."""
    config = transformers.CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280,
        hidden_act="gelu",
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config)


def _image_encoder() -> Any:
    """The side of its pictures."""
    config = transformers.CLIPVisionConfig(
        hidden_size=1664, intermediate_size=8192, num_hidden_layers=48, num_attention_heads=16, projection_dim=1280,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    return transformers.CLIPVisionModelWithProjection(config)


def _unet() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=8, block_out_channels=(384, 768, 1152, 1536), layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        cross_attention_dim=768, attention_head_dim=64, addition_embed_type="image", encoder_hid_dim=1280,
        encoder_hid_dim_type="image_proj", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


def _movq() -> Any:
    return diffusers.VQModel(
        latent_channels=4, vq_embed_dim=4, num_vq_embeddings=16_384, block_out_channels=(128, 256, 256, 512),
        down_block_types=(*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"), layers_per_block=2,
        up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3), norm_type="spatial",
    )  # fmt: skip


if __name__ == "__main__":
    main()
