"""The bundled unCLIP model: small in the repository, whole on demand, and what the worker takes for a good folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER, BUNDLED_UNCLIP
from worker.models.assembly import assembled
from worker.models.folder import ModelFolder
from worker.models.judge import judge


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files have the hashes that the repository names, or this fails."""
    return assembled(BUNDLED_UNCLIP, tmp_path_factory.mktemp("cache"))


def test_the_repository_holds_only_what_was_trained() -> None:
    assert sum(file.stat().st_size for file in BUNDLED_UNCLIP.rglob("*") if file.is_file()) < 18_000_000
    with safe_open(BUNDLED_UNCLIP / "unet" / "trained.safetensors", "np") as trained:
        names = set(trained.keys())
    assert "class_embedding.linear_1.weight" in names
    reading = {name for name in names if "attn2.to_k" in name}
    assert reading == {name for name in reading if name.startswith("mid_block")}, "the rest is the bundled model's"


def test_the_worker_finds_no_fault_with_it(whole: Path) -> None:
    verdict = judge(whole)
    assert verdict.faults == ()
    assert verdict.folder is not None
    assert verdict.folder.pipeline.name == "StableUnCLIPPipeline"
    assert ModelFolder(whole).name == "starter-unclip"


def test_what_it_shares_is_the_same_and_the_picture_half_of_the_scorer_is_there(whole: Path) -> None:
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (whole / name).read_bytes() == (BUNDLED_MODEL / name).read_bytes()
    preparation = (whole / "feature_extractor" / "preprocessor_config.json").read_bytes()
    assert preparation == (BUNDLED_SCORER / "preprocessor_config.json").read_bytes()
    listed = json.loads((whole / "model_index.json").read_text())
    assert listed["image_encoder"] == ["transformers", "CLIPVisionModelWithProjection"]
    with safe_open(whole / "image_encoder" / "model.safetensors", "np") as tower:
        names = tower.keys()
    assert {name.split(".")[0] for name in names} == {"vision_model", "visual_projection"}
