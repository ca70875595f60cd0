"""What loads, what is refused and in which words."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

from tests.engine.tiny_models import SIDE, save_tiny_model
from tests.models.spoilt import UNET, edit_json
from worker.models.announced import describe
from worker.models.bundle import Bundle, ModelError, load
from worker.models.quiet import quiet_libraries


@pytest.fixture(scope="module")
def tiny(whole_folder: Path) -> Bundle:
    return load(whole_folder)


@pytest.mark.usefixtures("no_network")
def test_a_whole_folder_loads_without_a_network(whole_folder: Path) -> None:
    bundle = load(whole_folder)
    assert (bundle.name, bundle.family) == ("tiny", "StableDiffusionPipeline")
    assert {part.dtype for part in (bundle.unet, bundle.vae, bundle.text_encoder)} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in bundle.unet.parameters())
    assert (bundle.latent_channels, bundle.vae_scale_factor, bundle.context_length) == (4, 4, 32)


def test_the_card_of_a_folder_that_says_nothing_about_itself(whole_folder: Path) -> None:
    card = describe(load(whole_folder, name="other"), seats=3)
    assert (card.name, card.seats, card.max_prompt_tokens) == ("other", 3, 90)
    assert (card.width, card.height, card.min_side, card.max_side) == (SIDE, SIDE, SIDE // 2, SIDE * 2)
    assert (card.num_inference_steps, card.guidance_scale, card.scheduler) == (30, 7.5, "PNDMScheduler")
    assert {"ddim", "euler_a", "dpmpp_2m", "unipc", "EulerDiscreteScheduler"} <= set(card.schedulers)
    assert "prompt_syntax" in card.takes


def test_the_folders_own_defaults_win(folder: Path) -> None:
    (folder / "darkroom.json").write_text('{"max_steps": 8, "guidance_scale": 0.0, "scheduler": "lcm"}')
    card = describe(load(folder), seats=1)
    assert (card.max_steps, card.guidance_scale, card.scheduler) == (8, 0.0, "lcm")


@pytest.mark.parametrize(
    ("largest", "most"),
    [(float("inf"), 2 * SIDE), (4.0, 2 * SIDE), (2.0, 88), (1.0, SIDE), (0.2, SIDE), (-1.0, SIDE)],
)
def test_sizes_that_memory_can_never_hold_are_not_offered(tiny: Bundle, largest: float, most: int) -> None:
    """88 is the next multiple of four below the square root of two sides; the native size is always offered."""
    card = describe(tiny, seats=1, largest=largest, limits={})
    assert (card.max_side, card.min_side) == (most, SIDE // 2)


def test_a_model_is_announced_with_what_it_does_with_pictures(tiny: Bundle) -> None:
    card = describe(tiny, seats=1, limits={})
    assert card.tasks == ("text-to-image", "image-to-image", "inpainting")
    assert {"image", "strength", "mask_image", "mask_blur"} <= set(card.takes)


def test_the_hash_tells_weights_apart_and_ignores_defaults(folder: Path) -> None:
    before = load(folder).sha256
    (folder / "darkroom.json").write_text('{"max_steps": 8}')
    (folder / "README.md").write_text("a model")
    assert load(folder).sha256 == before
    tensors = load_file(folder / UNET)
    tensors["conv_in.bias"] += 1
    save_file(tensors, folder / UNET, metadata={"format": "pt"})
    assert load(folder).sha256 != before


def test_a_snapshot_of_the_hub_cache_loads(whole_folder: Path, tmp_path: Path) -> None:
    """Files there are symlinks to ../../blobs, named by their hash."""
    repository = tmp_path / "models--someone--Some-Model"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    (repository / "blobs").mkdir(parents=True)
    for file in filter(Path.is_file, whole_folder.rglob("*")):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(whole_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (snapshot / "safety_checker").mkdir()
    bundle = load(snapshot)
    assert bundle.name == "some-model"
    assert bundle.sha256 == load(whole_folder).sha256


def test_half_precision_files_load_in_one_type(folder: Path) -> None:
    with quiet_libraries():
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float16)
        shutil.rmtree(folder)
        pipeline.save_pretrained(folder, variant="fp16", safe_serialization=True)
    assert not (folder / UNET).exists()
    bundle = load(folder, dtype=torch.float32)
    assert {part.dtype for part in (bundle.unet, bundle.vae, bundle.text_encoder)} == {torch.float32}


def test_a_tiny_autoencoder_loads(tmp_path: Path) -> None:
    with quiet_libraries():
        folder = save_tiny_model(tmp_path / "m", prediction_type="epsilon", vae="AutoencoderTiny")
    assert type(load(folder).vae).__name__ == "AutoencoderTiny"


def test_sdxl_loads_with_both_text_encoders(xl_folder: Path) -> None:
    bundle = load(xl_folder)
    assert (bundle.family, bundle.force_zeros_for_empty_prompt, bundle.context_length) == (
        "StableDiffusionXLPipeline",
        True,
        32,
    )
    card = describe(bundle, seats=2, limits={})
    assert (card.family, card.scheduler, card.width) == (bundle.family, "EulerDiscreteScheduler", SIDE)


@pytest.mark.parametrize(("upcast", "expected"), [(None, torch.float32), (True, torch.float32), (False, torch.float16)])
def test_sdxls_vae_is_float16_only_where_it_says_it_can_be(
    xl_folder: Path, upcast: bool | None, expected: torch.dtype
) -> None:
    config = json.loads((xl_folder / "vae/config.json").read_text())
    config.pop("force_upcast", None)
    (xl_folder / "vae/config.json").write_text(
        json.dumps(config | ({} if upcast is None else {"force_upcast": upcast}))
    )
    bundle = load(xl_folder, dtype=torch.float16)
    assert (bundle.unet.dtype, bundle.text_encoder_2.dtype, bundle.vae.dtype) == (*[torch.float16] * 2, expected)


def test_an_sdxl_folder_says_how_it_reads_an_empty_negative_prompt(xl_folder: Path) -> None:
    edit_json(xl_folder / "model_index.json", force_zeros_for_empty_prompt=False)
    assert load(xl_folder).force_zeros_for_empty_prompt is False


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (lambda folder: edit_json(folder / "model_index.json", text_encoder_2=[None, None]), "names no text_encoder_2"),
        (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "has no folder tokenizer_2"),
        (lambda folder: (folder / "text_encoder_2/model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: edit_json(folder / "vae/config.json", latents_mean=[0.1] * 4), "has latents_mean"),
        (
            lambda folder: edit_json(folder / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline"),
            "supported families: StableDiffusionPipeline, StableDiffusionXLPipeline",
        ),
        (
            lambda folder: edit_json(folder / "model_index.json", _class_name="StableDiffusionPipeline"),
            "cross_attention_dim=64",
        ),
    ],
    ids=["no encoder", "no folder", "no weights", "another latent space", "refiner", "read as 1.x"],
)
def test_an_sdxl_folder_that_does_not_fit_is_refused(
    xl_folder: Path, breaking: Callable[[Path], object], words: str
) -> None:
    breaking(xl_folder)
    with pytest.raises(ModelError, match=words):
        load(xl_folder)


def test_auto_names_take_what_the_machine_has(whole_folder: Path) -> None:
    bundle = load(whole_folder, device="auto", dtype="auto")
    on_gpu = torch.cuda.is_available()
    assert bundle.device.type == ("cuda" if on_gpu else "cpu")
    assert bundle.dtype == (torch.float16 if on_gpu else torch.float32)


def test_parts_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    starter = Path(__file__).parents[2] / "models" / "starter"
    shutil.rmtree(folder / "unet")
    shutil.copytree(starter / "unet", folder / "unet")
    with pytest.raises(ModelError, match="in_channels=12"):
        load(folder)


def test_a_file_that_differs_from_the_manifest_is_refused(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in files]
    (folder / "sha256sums.txt").write_text("".join(lines))
    load(folder)
    damaged = folder / UNET
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ModelError, match="differs from sha256sums"):
        load(folder)


def test_a_listed_file_that_is_missing_is_refused(folder: Path) -> None:
    (folder / "NOTICE").write_text("thanks")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()} *{file.relative_to(folder)}\n" for file in files]
    (folder / "sha256sums.txt").write_text("".join(lines))
    (folder / "NOTICE").unlink()
    with pytest.raises(ModelError, match="NOTICE is missing, but listed"):
        load(folder)


@pytest.mark.parametrize(("option", "value"), [("device", "gpu0"), ("dtype", "float15"), ("dtype", "int8")])
def test_unknown_devices_and_types_are_refused(whole_folder: Path, option: str, value: str) -> None:
    with pytest.raises(ModelError, match=f"{option} {value} is unknown; name auto"):
        load(whole_folder, **{option: value})


def test_loading_leaves_the_libraries_as_talkative_as_before(whole_folder: Path) -> None:
    from diffusers.utils import logging

    logging.set_verbosity_info()
    with warnings.catch_warnings(record=True) as caught:
        load(whole_folder)
    assert caught == []
    assert logging.get_verbosity() == logging.INFO
    logging.set_verbosity_warning()


def test_a_folder_with_an_lcm_scheduler_wants_few_steps(folder: Path) -> None:
    edit_json(folder / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    edit_json(folder / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler")
    with capture_logs() as lines:
        card = describe(load(folder), seats=1, limits={})
    assert (card.num_inference_steps, card.guidance_scale, card.scheduler) == (4, 1.0, "LCMScheduler")
    [said] = [line for line in lines if line["event"] == "defaults for few steps"]
    assert "LCMScheduler" in said["because"]
    assert "darkroom.json" in said["remedy"]


def test_a_folder_called_turbo_wants_few_steps_unless_it_says_more(folder: Path) -> None:
    edit_json(folder / "unet" / "config.json", _name_or_path="someone/sd-turbo")
    assert (load(folder).defaults.num_inference_steps, load(folder).defaults.guidance_scale) == (4, 0.0)
    (folder / "darkroom.json").write_text('{"guidance_scale": 2.0}')
    assert (load(folder).defaults.num_inference_steps, load(folder).defaults.guidance_scale) == (4, 2.0)


def test_a_folder_that_may_be_turbo_is_told_how_to_say_so(folder: Path) -> None:
    edit_json(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    config = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    edit_json(folder / "scheduler" / "scheduler_config.json", **config)
    with capture_logs() as lines:
        assert load(folder).defaults.num_inference_steps == 30
    [said] = [line for line in lines if line["log_level"] == "warning"]
    stated = json.loads(re.search(r"{.*}", said["remedy"])[0])  # type: ignore[index]
    (folder / "darkroom.json").write_text(json.dumps(stated))
    with capture_logs() as lines:
        defaults = load(folder).defaults
    assert (defaults.num_inference_steps, defaults.guidance_scale, lines) == (4, 0.0, [])


def test_the_default_steps_are_within_the_folders_own_limit(folder: Path) -> None:
    (folder / "darkroom.json").write_text('{"max_steps": 8}')
    assert load(folder).defaults.num_inference_steps == 8
