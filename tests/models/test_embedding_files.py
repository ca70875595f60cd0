"""Textual inversions by their headers: which fit the model's text encoders, and why others are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from worker.models.adapters import embeddings_of


def encoders(*widths: int) -> dict[str, Any]:
    with torch.device("meta"):
        made = [
            transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=width, num_hidden_layers=1))
            for width in widths
        ]
    return dict(zip(("text_encoder", "text_encoder_2"), made, strict=False))


ONE, TWO = (32,), (32, 64)
XL = {"clip_l": torch.zeros(2, 32), "clip_g": torch.zeros(2, 64)}

FIT: dict[str, tuple[tuple[int, ...], dict[str, torch.Tensor], int]] = {
    "diffusers": (ONE, {"<cat-toy>": torch.zeros(32)}, 1),
    "AUTOMATIC1111": (ONE, {"emb_params": torch.zeros(8, 32)}, 8),
    "SDXL": (TWO, XL, 2),
}


@pytest.mark.parametrize("kind", FIT)
def test_both_forms_are_known(kind: str, tmp_path: Path) -> None:
    widths, tensors, vectors = FIT[kind]
    save_file(tensors, tmp_path / "toy.safetensors")
    shelf = embeddings_of(encoders(*widths), tmp_path)
    assert shelf.faults == ()
    assert shelf.served["toy"].vectors == vectors
    assert set(shelf.served["toy"].tensors) == set(encoders(*widths))


REFUSED: dict[str, tuple[tuple[int, ...], dict[str, torch.Tensor], str]] = {
    "another width": (
        ONE,
        {"emb_params": torch.zeros(8, 768)},
        "is [8, 768], the text_encoder here reads vectors of 32",
    ),
    "of SDXL": (ONE, XL, "made for a model with two, this one has one text encoder"),
    "for SDXL": (TWO, {"emb_params": torch.zeros(8, 32)}, "made for a model with one text encoder, this one has two"),
    "unequal": (TWO, XL | {"clip_g": torch.zeros(3, 64)}, "has 2 and 3 vectors"),
    "none": (ONE, {"emb_params": torch.zeros(0, 32)}, "has 0 vectors"),
    "too many": (ONE, {"emb_params": torch.zeros(76, 32)}, "has 76 vectors"),
    "a LoRA": (ONE, {"a.lora_A.weight": torch.zeros(4, 32), "a.lora_B.weight": torch.zeros(32, 4)}, "has 2 tensors"),
    "no matrix": (ONE, {"emb_params": torch.zeros(1, 1, 32)}, "is [1, 1, 32]"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_left_out_by_a_sentence(kind: str, tmp_path: Path) -> None:
    widths, tensors, sentence = REFUSED[kind]
    save_file(tensors, tmp_path / "odd.safetensors")
    shelf = embeddings_of(encoders(*widths), tmp_path)
    assert shelf.served == {}
    [fault] = shelf.faults
    assert fault.startswith(str(tmp_path / "odd.safetensors"))
    assert sentence in fault


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.zeros(1, 32)}}, tmp_path / "toy.pt")
    shelf = embeddings_of(encoders(*ONE), tmp_path)
    assert shelf.served == {}
    assert "is a pickle, which can run anything when opened" in shelf.faults[0]
