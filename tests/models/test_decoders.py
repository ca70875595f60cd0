"""Kandinsky 2.2 and Karlo: doctor and worker give one verdict on their folders, with the names that these have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.tiny_models import save_tiny_kandinsky, save_tiny_karlo
from tests.models.spoilt import Spoiling, configure, drop_a_tensor, edit_json, forget, remove
from worker.models.announced import describe
from worker.models.bundle import load
from worker.models.judge import judge
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import StepLimits

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kandinsky, decoder with decoder-prior, and karlo. Not to be changed."""
    place = tmp_path_factory.mktemp("models")
    with quiet_libraries():
        save_tiny_kandinsky(place / "kandinsky")
        save_tiny_kandinsky(place / "decoder", in_two=True)
        save_tiny_karlo(place / "karlo")
    return place


FINDINGS: dict[str, tuple[str, Spoiling, str]] = {
    "a part that the index does not name": ("kandinsky", forget("model_index.json", "movq"), "names no movq"),
    "a prior without its encoder": ("kandinsky", remove("prior_text_encoder"), "has no folder prior_text_encoder"),
    "a decoder of another kind": (
        "kandinsky",
        configure("unet/config.json", encoder_hid_dim_type="text_proj"),
        "encoder_hid_dim_type=text_proj, the other parts need image_proj",
    ),
    "an image encoder of another CLIP": (
        "kandinsky",
        configure("prior_image_encoder/config.json", projection_dim=48),
        "projection_dim=48, the other parts need 32",
    ),
    "a tokenizer of a shorter text encoder": (
        "karlo",
        configure("tokenizer/tokenizer_config.json", model_max_length=16),
        "fills texts up to 16 tokens, and the prior reads 32",
    ),
    "a tensor of the prior": ("kandinsky", drop_a_tensor(f"prior_prior/{WEIGHTS}", "proj_in.weight"), "lack 1 tensors"),
    "a tensor of the movq": ("kandinsky", drop_a_tensor(f"movq/{WEIGHTS}", "quant_conv.bias"), "lack 1 tensors"),
    "Karlo without super-resolution": ("karlo", remove("super_res_last"), "has no folder super_res_last"),
    "a text projection of another prior": (
        "karlo",
        configure("text_proj/config.json", clip_embeddings_dim=48),
        "clip_embeddings_dim=48, the other parts need 32",
    ),
    "a tensor of the text projection": (
        "karlo",
        drop_a_tensor(f"text_proj/{WEIGHTS}", "embedding_proj.weight"),
        "lack 1 tensors, e.g. embedding_proj.weight",
    ),
    "networks of two sizes": (
        "karlo",
        configure("super_res_first/config.json", sample_size=32),
        "sample_size=32, the other parts need 64",
    ),
    "a scheduler that its pipeline cannot step": (
        "karlo",
        lambda folder: edit_json(folder / "model_index.json", decoder_scheduler=["diffusers", "DDIMScheduler"]),
        "The decoder_scheduler of",
    ),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_is_wrong_is_named_as_the_folder_names_it(folders: Path, tmp_path: Path, finding: str) -> None:
    name, spoil, sentence = FINDINGS[finding]
    folder = shutil.copytree(folders / name, tmp_path / name)
    spoil(folder)
    faults = judge(folder).faults
    assert faults
    assert any(sentence in fault for fault in faults), faults


def test_whole_folders_have_no_faults(folders: Path) -> None:
    for name in ("kandinsky", "karlo"):
        assert judge(folders / name).faults == ()
    assert judge(folders / "decoder", prior=folders / "decoder-prior").faults == ()


def test_a_model_in_two_folders_needs_both(folders: Path) -> None:
    alone = judge(folders / "decoder").faults
    assert "is a decoder alone: set DARKROOM_PRIOR" in alone[0]
    for other, said in (("kandinsky", "holds a KandinskyV22CombinedPipeline"), ("none", "not in diffusers' layout")):
        [fault] = judge(folders / "decoder", prior=folders / other).faults
        assert fault.startswith("DARKROOM_PRIOR: ")
        assert said in fault
    [fault] = judge(folders / "kandinsky", prior=folders / "decoder-prior").faults
    assert "takes no prior; unset it" in fault


def test_a_fault_of_the_other_folder_is_named_there(folders: Path, tmp_path: Path) -> None:
    prior = shutil.copytree(folders / "decoder-prior", tmp_path / "prior")
    remove("text_encoder")(prior)
    [fault] = judge(folders / "decoder", prior=prior).faults
    assert fault == f"{prior} has no folder text_encoder; fetch the whole model."


def test_their_autoencoders_are_their_own(folders: Path) -> None:
    [fault] = judge(folders / "kandinsky", vae=folders / "kandinsky" / "movq").faults
    assert "has an autoencoder of its own kind" in fault


def test_the_image_encoder_is_not_reckoned_in(folders: Path) -> None:
    """It is dropped before anything is drawn."""
    with quiet_libraries():
        bundle = load(folders / "kandinsky")
    need = judge(folders / "kandinsky").need
    assert need is not None
    assert bundle.seldom["image_encoder"].nbytes > 0
    # Buffers and what is made of the encoder are no parameters.
    assert abs(need.weights - bundle.weights_bytes) < 0.01 * need.weights


def test_cards(folders: Path) -> None:
    limits = {"UnCLIPScheduler": StepLimits(2, 150)}
    with quiet_libraries():
        karlo, kandinsky = (load(folders / name) for name in ("karlo", "kandinsky"))
    card = describe(karlo, seats=4, limits=limits)
    assert (card.width, card.min_side, card.max_side, card.side_multiple) == (64, 64, 64, 64)
    assert (card.num_inference_steps, card.guidance_scale) == (25, 8.0)
    assert (card.prior_num_inference_steps, card.prior_guidance_scale) == (25, 4.0)
    assert (card.tasks, card.scheduler) == (("text-to-image", "embed"), "UnCLIPScheduler")
    card = describe(kandinsky, seats=4, limits=limits)
    assert (card.side_multiple, card.embedding_dimensions, card.max_prompt_tokens) == (16, 32, 30)
    assert card.tasks == ("text-to-image", "image-variation", "embed")
    assert {"prior", "image_embedding"} <= set(card.takes)


def test_hashes_are_of_both_folders(folders: Path, tmp_path: Path) -> None:
    with quiet_libraries():
        before = load(folders / "decoder", prior=folders / "decoder-prior").sha256
        prior = shutil.copytree(folders / "decoder-prior", tmp_path / "prior")
        config = prior / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"clip_sample_range": 0.25}))
        assert load(folders / "decoder", prior=prior).sha256 != before
