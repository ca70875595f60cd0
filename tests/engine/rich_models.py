"""A tiny model of every family, with all that it takes beside: ControlNets, LoRAs and learned words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from app.contract.messages.card import ModelCard
from app.contract.messages.spec import JUDGED
from tests.engine.tiny_controlnets import with_controlnets
from tests.engine.tiny_loras import factors, is_any, is_attention, save_kohya, save_peft
from tests.engine.tiny_models import (
    SD2,
    add_tiny_checker,
    save_tiny_inpainting,
    save_tiny_kandinsky,
    save_tiny_karlo,
    save_tiny_lcm,
    save_tiny_model,
    save_tiny_unclip,
    save_tiny_unclip_of_images,
    save_tiny_variation,
    save_tiny_xl,
)
from worker.models.announced import describe
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import StepLimits

WORDS = {"cat-toy": 1, "bad_hands.v2": 3}
"""Textual inversions, and the vectors of each."""


def _checked(folder: Path) -> Path:
    return add_tiny_checker(save_tiny_model(folder, prediction_type="epsilon"), thresholds=0.1)


MODELS: dict[str, Callable[[Path], Path]] = {
    "sd": _checked,
    "sd2": lambda folder: save_tiny_model(folder, prediction_type="v_prediction", unet=SD2),
    "zero terminal snr": lambda folder: save_tiny_model(folder, prediction_type="v_prediction"),
    "xl": save_tiny_xl,
    "xl of nine channels": lambda folder: save_tiny_xl(folder, in_channels=9),
    "nine channels": save_tiny_inpainting,
    "lcm": save_tiny_lcm,
    "unclip": save_tiny_unclip,
    "unclip of pictures": save_tiny_unclip_of_images,
    "variation": save_tiny_variation,
    "kandinsky": save_tiny_kandinsky,
    "karlo": save_tiny_karlo,
}
CONTROLLED = ("sd", "xl")
PLAIN = ("unclip of pictures", "variation", "kandinsky", "karlo")
"""Those that take no adapters, or here have none."""


def rich(name: str, folder: Path) -> Bundle:
    with quiet_libraries():
        model = MODELS[name](folder / "model")
        beside = {} if name in PLAIN else _adapters(model, folder, xl=name.startswith("xl"))
        bundle = load(model, safety="flag" if name == "sd" else "off", **beside)
        if name in CONTROLLED:
            bundle = with_controlnets(bundle, folder / "controlnets")
        if name == "zero terminal snr":
            options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            scheduler = diffusers.DDIMScheduler.from_config(bundle.scheduler.config, **options)
            bundle = dataclasses.replace(bundle, scheduler=scheduler)
    return bundle


def card_of(bundle: Bundle, limits: dict[str, StepLimits] | None = None) -> ModelCard:
    """As of a worker with a scorer beside the model. `limits` are found by trying if missing, which takes seconds."""
    card = describe(bundle, seats=8, limits=limits)
    return card.model_copy(update={"takes": (*card.takes, *JUDGED)})


def _adapters(model: Path, folder: Path, *, xl: bool) -> dict[str, Any]:
    plain, loras, words = load(model), folder / "loras", folder / "words"
    loras.mkdir()
    words.mkdir()
    texts = ("text_encoder", "text_encoder_2") if xl else ("text_encoder",)
    save_kohya(loras / "ink.safetensors", factors(plain, rank=4, seed=1, chosen=is_attention), alpha=2.0, xl=xl)
    save_peft(loras / "both.safetensors", factors(plain, rank=2, seed=2, parts=("unet", *texts), chosen=is_any))
    save_peft(loras / "texts.safetensors", factors(plain, rank=1, seed=3, parts=texts[:1], chosen=is_any))
    chance, names = torch.Generator().manual_seed(0), ("clip_l", "clip_g") if xl else ("emb_params",)
    for word, count in WORDS.items():
        vectors = {name: torch.randn(count, 32, generator=chance) for name in names}
        save_file(vectors, words / f"{word}.safetensors")
    return {"loras": loras, "embeddings": words}
