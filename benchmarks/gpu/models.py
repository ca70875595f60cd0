"""Models in the sizes of Stable Diffusion 1.5 and SDXL with random weights, and ways to drive them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.gpu.run import Run
from worker.engine.compile import compile_table
from worker.engine.compiled import Compile
from worker.engine.denoise import Plan, StepInput
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Failed
from worker.engine.guidance import Guidance
from worker.engine.lane import Lane
from worker.engine.lanes import Graphs, Lanes
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.schedulers import for_name

STARTER = Path("models/starter")

GFLOP = {"sd": 803.0, "xl": 6761.0}
"""Of one row at the native size, as torch's FlopCounterMode counts it."""

WIDTHS = (320, 640, 1280, 1280)
SMALL_WIDTHS = (32, 64, 64)
SMALL_SIDE = 8
"""Of the latents. The small networks are as shallow as their kind can be: on a CPU, what torch does about a layer takes
longer than the layer does."""


def full_size(run: Run, kind: str, dtype: torch.dtype) -> Bundle:
    """A bundle of `kind` sd or xl around the starter's tokenizer. The VAE of xl stays in float32 beside float16."""
    torch.manual_seed(0)
    starter, xl = load(STARTER, device="cpu"), kind == "xl"
    starter.tokenizer.model_max_length = 77
    with torch.device(run.device):
        text = transformers.CLIPTextModel(_text_config(run, starter, large=False))
        text_2 = transformers.CLIPTextModelWithProjection(_text_config(run, starter, large=True)) if xl else None
        vae = _vae(run, scaling_factor=0.13025 if xl else 0.18215)
        unet = _xl_unet(run) if xl else _sd_unet(run)
    for part in (text, text_2, unet, vae):
        if part is not None:
            wide = xl and part is vae and dtype == torch.float16
            part.to(torch.float32 if wide else dtype).eval().requires_grad_(False)
    if run.on_gpu:
        unet.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)
    side = unet.config.sample_size * 8
    return dataclasses.replace(
        starter,
        name=kind,
        family="StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer_2=starter.tokenizer if xl else None,
        unet=unet,
        vae=vae,
        device=run.device,
        dtype=dtype,
        vae_scale_factor=8,
        force_zeros_for_empty_prompt=xl,
        scheduler=_scheduler(),
        defaults=starter.defaults.model_copy(update={"width": side, "height": side}),
    )


def _scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )


def _text_config(run: Run, starter: Bundle, *, large: bool) -> Any:
    own = starter.text_encoder.config
    ends = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    width, layers, heads = (1280, 32, 20) if large else (768, 12, 12)
    return transformers.CLIPTextConfig(
        vocab_size=own.vocab_size if run.small else 49_408,
        max_position_embeddings=77,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=1 if run.small else layers,
        num_attention_heads=heads,
        projection_dim=1280,
        hidden_act="quick_gelu",
        **ends,
    )


def _vae(run: Run, *, scaling_factor: float) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64) if run.small else (128, 256, 512, 512),
        layers_per_block=_layers(run),
        latent_channels=4,
        sample_size=512,
        scaling_factor=scaling_factor,
    )


def _layers(run: Run) -> int:
    """Of each block of a network."""
    return 1 if run.small else 2


def _sd_unet(run: Run) -> Any:
    shallow = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    shallow |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    return diffusers.UNet2DConditionModel(
        sample_size=SMALL_SIDE if run.small else 64,
        block_out_channels=SMALL_WIDTHS[:2] if run.small else WIDTHS,
        layers_per_block=_layers(run),
        cross_attention_dim=768,
        **(shallow if run.small else {}),
    )


def _xl_unet(run: Run) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=SMALL_SIDE if run.small else 128,
        block_out_channels=SMALL_WIDTHS if run.small else WIDTHS[:3],
        layers_per_block=_layers(run),
        cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2) if run.small else (1, 2, 10),
        attention_head_dim=(4, 8, 8) if run.small else (5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def request(bundle: Bundle, id: str, **changes: Any) -> Request:
    """A guided picture of the native size, but for `changes`."""
    plain: dict[str, Any] = {
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": bundle.defaults.width,
        "height": bundle.defaults.height,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "scheduler": "dpmpp_2m",
        "seed": 7,
        "num_images": 1,
    }
    return Request(id=id, **plain | changes)


def finish(engine: Engine) -> list[EngineEvent]:
    """Step until nothing is open. Raises AssertionError if a job failed."""
    events: list[EngineEvent] = []
    while not engine.idle:
        events += engine.step()
    failed = [event for event in events if isinstance(event, Failed)]
    assert not failed, failed[0].error.detail
    return events


def native_lane(bundle: Bundle, graphs: Graphs, *, compile: Compile = "off", seats: int = 16) -> Lane:
    """With noise in every seat."""
    family = family_of(bundle)
    lanes = Lanes(family.native, family.autoencoder, seats=seats, graphs=graphs, compile=compile)
    lane = lanes.open(family.native)
    generator = torch.Generator(bundle.device).manual_seed(0)
    lane.step.state.normal_(generator=generator)
    for kept in lane.step.conditioning.values():
        kept.normal_(generator=generator)
    return lane


def plan_of(lane: Lane, rows: int, *, seats: int = 16) -> Plan:
    """A step of guided samples in the middle of their way. `rows` is even."""
    table = compile_table(for_name(_scheduler(), "dpmpp_2m"), 20)
    inputs = [
        StepInput(
            seat=1 + k % seats,
            guidance=Guidance(scale=7.5),
            input_scale=float(table.input_scale[9]),
            timestep=float(table.timesteps[9]),
            block=table.block(9, 7.5),
        )
        for k in range(rows // 2)
    ]
    return Plan(inputs, rows=rows, samples=rows)
