"""DARKROOM_VAE: a VAE from another folder in the place of the model's own, if it was made for that kind of model."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.engine.driving import engine_of, run, wish
from tests.models.spoilt import edit_json
from worker.engine.events import Finished
from worker.examine import examine
from worker.models.announced import describe
from worker.models.bundle import Bundle, ModelError, load
from worker.models.judge import judge
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import StepLimits
from worker.provenance import provenance_of

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole_vae(whole_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the model's own kind with other weights. Not to be changed."""
    config = diffusers.AutoencoderKL.load_config(whole_folder / "vae")
    torch.manual_seed(77)
    folder = tmp_path_factory.mktemp("vaes") / "finer"
    diffusers.AutoencoderKL.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def vae(whole_vae: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole_vae, tmp_path / "finer")


def loaded(folder: Path, **options: Any) -> Bundle:
    with quiet_libraries():
        return load(folder, **options)


def test_pictures_come_from_it_and_say_so(whole_folder: Path, whole_vae: Path) -> None:
    own, other = loaded(whole_folder), loaded(whole_folder, vae=whole_vae)
    expected = diffusers.AutoencoderKL.from_pretrained(whole_vae).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.vae.state_dict().items())
    assert other.sha256 != own.sha256
    assert (provenance_of(own).vae, provenance_of(other).vae) == (None, "finer")
    assert provenance_of(other).note(reproducible=False)["vae"] == "finer"
    assert "vae" not in provenance_of(own).note(reproducible=True)
    card = describe(other, seats=1, limits={"ddim": StepLimits(1, 100)})
    assert (card.vae, card.sha256) == ("finer", other.sha256)
    pictures = []
    for bundle in (own, other):
        finished = run(engine_of(bundle), wish(num_inference_steps=2))["a"]
        assert isinstance(finished, Finished)
        pictures.append(finished.pictures[0])
    assert (pictures[0] != pictures[1]).any()


def test_the_hash_is_that_of_a_model_with_these_files(folder: Path, whole_vae: Path) -> None:
    beside = loaded(folder, vae=whole_vae).sha256
    shutil.rmtree(folder / "vae")
    shutil.copytree(whole_vae, folder / "vae")
    assert loaded(folder).sha256 == beside


def test_the_models_list_of_hashes_does_not_speak_of_it(folder: Path, whole_vae: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in files]
    (folder / "sha256sums.txt").write_text("".join(lines))
    assert loaded(folder, vae=whole_vae).vae_name == "finer"


def test_a_small_one_will_do_although_it_scales_otherwise(whole_folder: Path, tmp_path: Path) -> None:
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 3,
        decoder_block_out_channels=(16,) * 3,
        num_encoder_blocks=(1,) * 3,
        num_decoder_blocks=(1,) * 3,
    )
    tiny.save_pretrained(tmp_path / "tiny")
    assert judge(whole_folder, vae=tmp_path / "tiny").faults == ()


def saved(**changes: Any) -> Callable[[Path], object]:
    """Another AutoencoderKL in its place."""

    def spoil(vae: Path) -> None:
        config = dict(diffusers.AutoencoderKL.load_config(vae)) | changes
        shutil.rmtree(vae)
        diffusers.AutoencoderKL.from_config(config).save_pretrained(vae)

    return spoil


FEWER: dict[str, Any] = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda vae: edit_json(vae / "config.json", scaling_factor=0.13025), "scaling_factor 0.13025, the model's own"),
        (saved(**FEWER), "pixels per latent 2, the model's own VAE has 4"),
        (saved(latent_channels=8), "in_channels=4"),
        (lambda vae: (vae / "config.json").unlink(), "config.json is missing"),
        (lambda vae: edit_json(vae / "config.json", _class_name="VQModel"), "is a diffusers.VQModel"),
        (lambda vae: (vae / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda vae: (vae / WEIGHTS).write_bytes(b"PK\x03\x04" + bytes(60)), "holds pickled weights"),
        (lambda vae: (vae / "diffusion_pytorch_model.bin").write_bytes(b"\x80"), "rm "),
        (lambda vae: edit_json(vae / "config.json", shift_factor=0.1), "shift_factor"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_one_that_cannot_take_its_place_is_refused(
    whole_folder: Path, vae: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(vae)
    faults = " ".join(judge(whole_folder, vae=vae).faults)
    assert said in faults
    with pytest.raises(ModelError):
        loaded(whole_folder, vae=vae)


def test_a_whole_model_is_named_by_its_part(whole_folder: Path) -> None:
    [fault] = judge(whole_folder, vae=whole_folder).faults
    assert fault.endswith(f"is a whole model; name {whole_folder / 'vae'}.")


def test_doctor_tells_of_it(whole_folder: Path, whole_vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_VAE", str(whole_vae))
    told = examine(whole_folder)["model"]
    assert (told["faults"], told["vae"]) == ((), str(whole_vae))
