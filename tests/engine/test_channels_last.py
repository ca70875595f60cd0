"""Convolutions with their channels last, as a worker has them on a CPU: the same numbers, rounded elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.driving import distance, engine_of, run, wish
from tests.engine.tiny_models import save_tiny_model, save_tiny_xl
from worker.engine.events import Finished
from worker.models import bundle
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries


def _sd(folder: Path) -> Path:
    return save_tiny_model(folder, prediction_type="epsilon")


@pytest.mark.parametrize("save", [_sd, save_tiny_xl], ids=["sd", "xl"])
def test_a_picture_is_the_same_but_for_rounding(save: Callable[[Path], Path], tmp_path: Path) -> None:
    """By a grey level or two: tiny random networks amplify what rounding does."""
    folder = save(tmp_path / "tiny")
    with quiet_libraries():
        last, first = (load(folder, channels_last=layout) for layout in ("on", "off"))  # type: ignore[arg-type]
    pictures = []
    for each in (last, first):
        ended = run(engine_of(each), wish(num_inference_steps=4))["a"]
        assert isinstance(ended, Finished)
        pictures.append(torch.from_numpy(ended.images[0].pixels.astype("float32")))
    assert distance(*pictures) < 0.05


@pytest.mark.parametrize(("layout", "is_last"), [("auto", True), ("on", True), ("off", False)])
def test_on_a_cpu_they_are_last_unless_that_is_off(
    layout: str, is_last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "CHANNELS_LAST", ("cuda", "cpu"))
    with quiet_libraries():
        loaded = load(_sd(tmp_path / "tiny"), channels_last=layout)  # type: ignore[arg-type]
    weight = loaded.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is is_last
