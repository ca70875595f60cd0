"""What a processor offers a model, as torch tells it; no machine has to have it."""

from __future__ import annotations

import pytest
import torch

from app.cli.doctor import _gpu
from worker.models.place import multiplies_bfloat16, place_of

FACTS = {"gpus": [], "device": "cpu", "threads": 8, "cuda_build": None, "multiplies_bfloat16": False}


@pytest.mark.parametrize(
    ("told", "multiplies"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_processor_says_whether_it_multiplies_bfloat16(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], multiplies: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    assert multiplies_bfloat16() is multiplies
    assert place_of("cpu", "auto").dtype is torch.float32, "a machine's pictures do not change by themselves"


def test_the_doctor_names_it_where_it_would_help() -> None:
    assert "bfloat16" not in _gpu(FACTS).detail
    assert "DARKROOM_DTYPE=bfloat16" in _gpu(FACTS | {"multiplies_bfloat16": True}).detail
    assert "bfloat16" not in _gpu(FACTS | {"multiplies_bfloat16": True, "device": "mps"}).detail
