"""A whole StableUnCLIP folder from a decoder, a prior and a CLIP; and what is not put together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

from tests.engine.driving import drain, engine_of, last_events, wish
from tests.engine.tiny_models import EMBEDDING, save_tiny_unclip, save_tiny_unclip_of_images
from tests.models.spoilt import edit_json
from worker.compose import composed
from worker.engine.events import Finished
from worker.models.bundle import load
from worker.models.quiet import quiet_libraries


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the layouts in which the parts are published."""
    folder = tmp_path_factory.mktemp("published")
    with quiet_libraries():
        save_tiny_unclip_of_images(folder / "decoder")
        whole = save_tiny_unclip(folder / "whole", encoder=False)
        karlo = folder / "karlo"
        shutil.copytree(whole / "prior", karlo / "prior")
        scheduler = diffusers.UnCLIPScheduler(clip_sample_range=5.0, prediction_type="sample")
        scheduler.save_pretrained(karlo / "prior_scheduler")
        text = transformers.CLIPTextModelWithProjection.from_pretrained(whole / "prior_text_encoder")
        clip = transformers.CLIPConfig(
            text_config=text.config.to_dict(),
            vision_config={**TINY, "image_size": 30, "patch_size": 15, "projection_dim": EMBEDDING},
            projection_dim=EMBEDDING,
        )
        torch.manual_seed(3)
        transformers.CLIPModel(clip).save_pretrained(folder / "clip")
        for file in (whole / "prior_tokenizer").iterdir():
            shutil.copy(file, folder / "clip")
    return folder


TINY = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_the_parts_make_a_folder_that_draws_and_that_diffusers_loads(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "unclip"
    answer = composed(target, published / "decoder", published / "karlo", published / "clip")
    assert answer.get("faults") is None
    bundle = load(target)
    assert bundle.sha256 == answer["sha256"]
    assert "image-variation" in bundle.tasks
    listed = (target / "sha256sums.txt").read_text()
    assert "prior/diffusion_pytorch_model.safetensors" in listed
    assert bundle.part("prior_scheduler").config.clip_sample_range == 5.0
    engine = engine_of(bundle)
    engine.submit(wish(num_inference_steps=2))
    assert isinstance(last_events(drain(engine))["a"], Finished)
    with quiet_libraries():
        pipeline = diffusers.StableUnCLIPPipeline.from_pretrained(target)
    assert type(pipeline.prior_scheduler).__name__ == "DDPMScheduler"


def test_parts_of_two_clips_are_not_put_together(published: Path, tmp_path: Path) -> None:
    """By their numbers, as ViT-H's decoder and Karlo's prior; and by their names where the numbers are the same."""
    longer = tmp_path / "longer"
    shutil.copytree(published / "karlo", longer)
    with quiet_libraries():
        prior = diffusers.PriorTransformer(2, 16, 2, embedding_dim=48, num_embeddings=32)
        prior.save_pretrained(longer / "prior")
    target = tmp_path / "m"
    [*faults] = composed(target, published / "decoder", longer, published / "clip")["faults"]
    assert any("prior of" in fault and "48 dimensions" in fault and "of two models" in fault for fault in faults)

    other = tmp_path / "other"
    shutil.copytree(published / "decoder", other)
    edit_json(other / "image_encoder" / "config.json", _name_or_path="laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    clip = tmp_path / "clip-vit-large-patch14"
    shutil.copytree(published / "clip", clip)
    [fault] = composed(target, other, published / "karlo", clip)["faults"]
    assert "of another CLIP" in fault
    assert not target.exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("karlo", "karlo"), "model_index.json"),
        (("whole", "decoder"), "has no prior with its scheduler"),
        (("decoder", "karlo"), "has no text encoder"),
        (("nowhere", "karlo"), "does not exist"),
    ],
)
def test_a_part_that_is_missing_is_named(published: Path, tmp_path: Path, parts: tuple[str, ...], said: str) -> None:
    faults = composed(tmp_path / "m", *(published / part for part in parts))["faults"]
    assert said in " ".join(faults)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(published: Path) -> None:
    before = json.loads((published / "whole" / "model_index.json").read_text())
    [fault] = composed(published / "whole", published / "decoder", published / "karlo", published / "clip")["faults"]
    assert "exists" in fault
    assert json.loads((published / "whole" / "model_index.json").read_text()) == before
