"""A model's safety checker is loaded where it is asked for, gives the stock pipeline's verdict, and paints nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessorPil

from app.contract.common.exits import CANNOT_START
from tests.engine.tiny_models import add_tiny_checker, save_tiny_model
from tests.models.spoilt import configure, cut_short, drop_a_tensor, forget, remove, write
from worker import main as worker_main
from worker.examine import examine
from worker.models.announced import describe
from worker.models.bundle import ModelError, load
from worker.models.judge import judge
from worker.models.quiet import quiet_libraries
from worker.models.safety import SafetyChecker

CHECKER = "safety_checker/model.safetensors"


@pytest.fixture
def checked_folder(folder: Path) -> Path:
    """A copy to break."""
    with quiet_libraries():
        return add_tiny_checker(folder)


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> SafetyChecker:
    with quiet_libraries():
        folder = save_tiny_model(tmp_path_factory.mktemp("checked") / "m", prediction_type="epsilon")
        found = load(add_tiny_checker(folder), safety="flag").checker
    assert found is not None
    return found


def patchwork(pictures: int, *, side: int = 64) -> torch.Tensor:
    """Uint8 [B, side, side, 3], each unlike the others."""
    patches = np.random.default_rng(3).integers(0, 256, (pictures, 8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(patches).repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)


def stock_verdict(checker: SafetyChecker, pictures: torch.Tensor, folder: Path) -> list[bool]:
    """As the pipelines ask for it."""
    extractor = CLIPImageProcessorPil.from_pretrained(folder)
    prepared = extractor(images=list(pictures.numpy()), return_tensors="pt").pixel_values.to(checker.model.dtype)
    with quiet_libraries():
        _, flags = StableDiffusionSafetyChecker.forward(checker.model, prepared, np.ones((len(pictures), 2, 2, 3)))
    return list(flags)


@pytest.fixture(scope="module")
def extractor_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractor")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_verdict_is_the_stock_pipelines(checker: SafetyChecker, dtype: torch.dtype, extractor_folder: Path) -> None:
    """Also where a special concept makes it stricter, and at the edge, where three digits decide."""
    pictures, generator = patchwork(24), torch.Generator().manual_seed(5)
    model = checker.model.to(dtype)
    seen = set()
    try:
        for special in (2.0, 0.2):
            for concepts in (0.35, 0.55, 0.7):
                model.special_care_embeds_weights.fill_(special)
                model.concept_embeds_weights.copy_(concepts + 0.1 * torch.rand(17, generator=generator))
                ours = (checker(pictures) > 0).tolist()
                assert ours == stock_verdict(checker, pictures, extractor_folder)
                seen |= set(ours)
        model.special_care_embeds_weights.fill_(2.0)
        for edge in torch.linspace(0.0003, 0.0007, 9).tolist():
            model.concept_embeds_weights.fill_(2.0)
            cosines = _cosines(checker, pictures)
            model.concept_embeds_weights.copy_(cosines.amax(0) - edge)
            assert (checker(pictures) > 0).tolist() == stock_verdict(checker, pictures, extractor_folder), edge
    finally:
        checker.model.to(torch.float32)
    assert seen == {False, True}, "neither verdict alone says anything"


def _cosines(checker: SafetyChecker, pictures: torch.Tensor) -> torch.Tensor:
    prepared = checker.preparation(pictures).to(checker.model.dtype)
    embeds = checker.model.visual_projection(checker.model.vision_model(prepared)[1])
    return torch.nn.functional.cosine_similarity(embeds[:, None], checker.model.concept_embeds[None], dim=2)


@torch.inference_mode()
def test_it_leaves_the_pictures_as_they_are(checker: SafetyChecker) -> None:
    pictures = patchwork(2)
    before = pictures.clone()
    checker.model.concept_embeds_weights.fill_(-2.0)
    assert (checker(pictures) > 0).all()
    assert torch.equal(pictures, before)


def test_it_is_loaded_only_where_it_is_asked_for(checked_folder: Path) -> None:
    """The model's hash says which weights made a picture, and this part makes none."""
    without, flagging = load(checked_folder), load(checked_folder, safety="flag")
    assert (without.checker, without.left_out) == (None, ("safety_checker",))
    assert flagging.checker is not None
    assert flagging.left_out == ()
    assert flagging.sha256 == without.sha256
    assert flagging.weights_bytes > without.weights_bytes
    cards = (describe(without, seats=1, limits={}), describe(flagging, seats=1, limits={}, safety="block"))
    assert [card.safety for card in cards] == ["off", "block"]
    assert judge(checked_folder, safety="flag").need.weights > judge(checked_folder).need.weights  # type: ignore[union-attr]


def test_it_has_the_type_of_the_model(checked_folder: Path) -> None:
    found = load(checked_folder, dtype="bfloat16", safety="block").checker
    assert found is not None
    assert found.model.dtype == torch.bfloat16


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (remove(CHECKER), "has no model.safetensors"),
    "weights cut short": (cut_short(CHECKER, leave=-1000), "cut short"),
    "a tensor is missing": (drop_a_tensor(CHECKER, "concept_embeds"), "lack 1 tensors, e.g. concept_embeds"),
    "no extractor": (configure("model_index.json", feature_extractor=[None, None]), "no feature_extractor"),
    "another class": (
        configure("model_index.json", safety_checker=["stable_diffusion", "AnotherChecker"]),
        "supported: StableDiffusionSafetyChecker",
    ),
    "an extractor that does something else": (
        configure("feature_extractor/preprocessor_config.json", do_resize=False),
        "no way to prepare pictures",
    ),
    "an extractor of another size": (
        configure("feature_extractor/preprocessor_config.json", size=64, crop_size=64),
        "makes pictures of 64 pixels, its safety checker sees 32",
    ),
    "program code in it": (write("safety_checker/checker.py", "import os"), "program code"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_checker_that_is_not_whole_is_refused_where_it_is_wanted(
    checked_folder: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(checked_folder)
    with pytest.raises(ModelError, match=words):
        load(checked_folder, safety="block")
    assert judge(checked_folder).faults == (), "nobody asked for it"


@pytest.mark.parametrize("forget_it", [False, True])
def test_a_model_without_one_is_refused_where_one_is_wanted(folder: Path, forget_it: bool) -> None:
    if forget_it:
        forget("model_index.json", "safety_checker")(folder)
    for safety in ("flag", "block"):
        [fault] = judge(folder, safety=safety).faults  # type: ignore[arg-type]
        assert f"{folder} has no safety checker" in fault
        assert f"DARKROOM_SAFETY={safety} needs one" in fault
        assert fault.endswith("or set DARKROOM_SAFETY=off.")
    assert judge(folder).faults == ()


def test_a_worker_rather_does_not_start_than_serve_one_unchecked(
    folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("configure", "_open_store"):
        monkeypatch.setattr(worker_main, name, lambda *_, **__: None)
    said = {"DARKROOM_MODEL": str(folder), "DARKROOM_SAFETY": "block", "REDIS_URL": valkey_url}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert worker_main.run() == CANNOT_START
    assert "DARKROOM_SAFETY=block needs one" in capsys.readouterr().err


def test_models_of_the_xl_kind_have_none(xl_folder: Path) -> None:
    [fault] = judge(xl_folder, safety="block").faults
    assert "StableDiffusionXLPipeline, which has none" in fault


def test_doctor_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_SAFETY", "block")
    told: dict[str, Any] = examine(folder)["model"]
    assert "has no safety checker" in " ".join(told["faults"])
    assert json.dumps(told)
