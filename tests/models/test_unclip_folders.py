"""Folders of unCLIP models that cannot be served: what is said of a part that is missing, or of another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.tiny_models import save_tiny_unclip, save_tiny_variation
from tests.models.spoilt import Spoiling, edit_json, remove
from worker.models.judge import judge
from worker.models.quiet import quiet_libraries


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_libraries():
        return save_tiny_unclip(tmp_path_factory.mktemp("models") / "tiny-unclip")


def unnamed(*parts: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({name: index[name] for name in index if name not in parts}))

    return spoil


def said(part: str, **changes: object) -> Spoiling:
    return lambda folder: edit_json(folder / part / "config.json", **changes)


def test_a_whole_folder_has_nothing_wrong(whole: Path) -> None:
    assert judge(whole).faults == ()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (unnamed("prior_text_encoder"), "names no prior_text_encoder; a decoder without a prior is a StableUnCLIPImg"),
        (remove("prior_text_encoder"), "has no folder prior_text_encoder"),
        (remove("prior"), "has no folder prior"),
        (remove("prior/diffusion_pytorch_model.safetensors"), "prior has no diffusion_pytorch_model.safetensors"),
        (unnamed("image_normalizer"), "names no image_normalizer; fetch the whole model"),
        (unnamed("feature_extractor"), "an image_encoder and a feature_extractor go together"),
        (said("image_normalizer", embedding_dim=64), "is for embeddings of 32 dimensions, its image_normalizer for 64"),
        (said("prior", num_embeddings=77), "77 tokens"),
        (said("unet", class_embed_type=None), "class_embed_type=None"),
    ],
)
def test_what_is_wrong_is_a_sentence(whole: Path, tmp_path: Path, spoil: Spoiling, sentence: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "m")
    spoil(folder)
    assert any(sentence in fault for fault in judge(folder).faults), judge(folder).faults


def test_without_an_image_encoder_it_is_served_for_texts(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "m")
    unnamed("image_encoder", "feature_extractor")(folder)
    assert judge(folder).faults == ()


def test_a_variation_model_needs_its_image_encoder(tmp_path: Path) -> None:
    with quiet_libraries():
        folder = save_tiny_variation(tmp_path / "m")
    assert judge(folder).faults == ()
    unnamed("image_encoder")(folder)
    assert any("names no image_encoder" in fault for fault in judge(folder).faults)
