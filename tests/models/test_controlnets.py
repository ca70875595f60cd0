"""A folder of ControlNets: what fits a model is announced, everything else is left out with a sentence, and no weights
are read for that."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.contract.messages.card import Adapter
from tests.engine.tiny_controlnets import tiny_controlnet
from tests.models.spoilt import edit_json
from worker.examine import examine
from worker.models.announced import describe
from worker.models.bundle import ModelError, load
from worker.models.configs import config_of
from worker.models.controlnets import KeptFolder, OfModel, load_controlnet, read_controlnets
from worker.models.folder import ModelFolder
from worker.models.judge import judge, read_tensors
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import StepLimits

WEIGHTS = "diffusion_pytorch_model.safetensors"
LIMITS = {"ddim": StepLimits(fewest=1, most=100, refused=())}


@pytest.fixture(scope="module")
def unet(whole_folder: Path) -> Any:
    return diffusers.UNet2DConditionModel.from_pretrained(whole_folder / "unet")


@pytest.fixture(scope="module")
def whole_shelf(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ControlNet in a folder. Not to be changed."""
    shelf = tmp_path_factory.mktemp("shelf")
    tiny_controlnet(unet, 1).save_pretrained(shelf / "Edges")
    return shelf


@pytest.fixture
def shelf(whole_shelf: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole_shelf, tmp_path / "shelf")


def judged(model: Path, shelf: Path) -> tuple[list[str], list[str]]:
    """Names of those that fit, and what is said of the others."""
    verdict = judge(model, controlnets=KeptFolder(shelf, 2))
    assert verdict.faults == (), "what lies beside a model is no reason not to serve it"
    return sorted(verdict.controlnets.files), [note for note in verdict.notes if note.startswith("Left out")]


def test_folders_and_files_are_called_by_their_names(whole_folder: Path, shelf: Path) -> None:
    shutil.copy(shelf / "Edges" / WEIGHTS, shelf / "depth-1.safetensors")
    (shelf / "README.md").write_text("What these are.")
    (shelf / ".cache").mkdir()
    assert judged(whole_folder, shelf) == (["depth-1", "edges"], [])


def test_weights_in_half_precision_alone_will_do(whole_folder: Path, shelf: Path) -> None:
    (shelf / "Edges" / WEIGHTS).rename(shelf / "Edges" / WEIGHTS.replace(".safe", ".fp16.safe"))
    assert judged(whole_folder, shelf) == (["edges"], [])


def test_what_fits_is_announced_and_how_many_at_once(whole_folder: Path, whole_shelf: Path) -> None:
    with quiet_libraries():
        bundle = load(whole_folder, controlnets=KeptFolder(whole_shelf, 1))
    card = describe(bundle, seats=1, limits=LIMITS)
    assert (card.controls, card.max_controls) == ((Adapter(name="edges"),), 1)
    assert "control" in card.takes
    with quiet_libraries():
        plain = describe(load(whole_folder), seats=1, limits=LIMITS)
    assert "control" not in plain.takes


def test_the_largest_that_may_be_in_memory_are_counted(whole_folder: Path, shelf: Path) -> None:
    shutil.copy(shelf / "Edges" / WEIGHTS, shelf / "depth.safetensors")
    found = judge(whole_folder, controlnets=KeptFolder(shelf, 2)).controlnets
    stored = sum(tensor.numel() for tensor in load_file(shelf / "depth.safetensors").values())
    assert found.bytes(itemsize=2) == 2 * 2 * stored


def retensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def spoil(shelf: Path) -> None:
        tensors = load_file(shelf / "Edges" / WEIGHTS)
        change(tensors)
        save_file(tensors, shelf / "Edges" / WEIGHTS)

    return spoil


def configure(**changes: Any) -> Callable[[Path], object]:
    return lambda shelf: edit_json(shelf / "Edges" / "config.json", **changes)


def rename(name: str) -> Callable[[Path], object]:
    return lambda shelf: (shelf / "Edges").rename(shelf / name)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda shelf: (shelf / "Edges" / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda shelf: (shelf / "Edges" / "config.json").unlink(), "config.json is no readable JSON"),
        (lambda shelf: (shelf / "Edges" / "config.json").write_text("[]"), "supported: ControlNetModel"),
        (lambda shelf: (shelf / "Edges" / WEIGHTS).write_bytes(b"PK\x03\x04" + b"0" * 40), "holds pickled weights"),
        (lambda shelf: (shelf / "Edges" / WEIGHTS).write_bytes(b"version https://git-lfs"), "Git LFS pointer"),
        (rename("Ed ges"), "has no name that requests could use"),
        (configure(_class_name="ControlNetUnionModel"), "is a ControlNetUnionModel; supported"),
        (configure(global_pool_conditions=True), "global_pool_conditions=True, which is not served"),
        (configure(class_embed_type="timestep"), "class_embed_type='timestep', which is not served"),
        (configure(layers_per_block=2), "is not what its configuration says"),
        (configure(block_out_channels="wide"), "is not what its configuration says"),
        (retensor(lambda tensors: tensors.pop("mid_block.resnets.0.conv1.weight")), "is not what its configuration"),
        (retensor(lambda tensors: tensors.pop("controlnet_down_blocks.0.weight")), "it is of another size"),
        (retensor(lambda tensors: tensors.pop("controlnet_mid_block.weight")), "its tensors have other names"),
        (retensor(lambda tensors: tensors.pop("conv_in.weight")), "is no whole ControlNet"),
        (retensor(lambda tensors: tensors.update(task_embedding=torch.zeros(1))), "a union ControlNet"),
    ],
)
def test_what_cannot_be_served_is_left_out_with_a_sentence(
    whole_folder: Path, shelf: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(shelf)
    names, [note] = judged(whole_folder, shelf)
    assert names == []
    assert said in note
    assert str(shelf) in note


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("old.pth", b"\x80", "is pickled"),
        ("old.ckpt", b"\x80", "is pickled"),
        ("cut.safetensors", b"", "is empty"),
        ("edges.safetensors", None, "has the name of"),
    ],
)
def test_other_files_are_named_and_never_opened_as_what_they_are_not(
    whole_folder: Path, shelf: Path, name: str, content: bytes | None, said: str
) -> None:
    (shelf / name).write_bytes((shelf / "Edges" / WEIGHTS).read_bytes() if content is None else content)
    names, [note] = judged(whole_folder, shelf)
    assert names == ["edges"]
    assert said in note


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"control_model.input_blocks.0.0.weight": torch.zeros(1)}, "from_single_file"),
        ({"lora_unet_down.lora_down.weight": torch.zeros(1)}, "is a LoRA"),
        ({"something": torch.zeros(1)}, "no ControlNet"),
    ],
)
def test_single_files_in_other_spellings_are_told_apart(
    whole_folder: Path, shelf: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    save_file(tensors, shelf / "other.safetensors")
    _, [note] = judged(whole_folder, shelf)
    assert said in note


def test_those_of_another_model_are_left_out(whole_folder: Path, whole_xl_folder: Path, shelf: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(whole_xl_folder / "unet")
    tiny_controlnet(unet, 1).save_pretrained(shelf / "xl")
    names, [note] = judged(whole_folder, shelf)
    assert (names, "xl does not fit the model" in note) == (["edges"], True)
    assert "it reads texts of width 64, the model 32" in note
    names, [note] = judged(whole_xl_folder, shelf)
    assert (names, "Edges does not fit the model" in note) == (["xl"], True)


def test_one_for_pictures_of_another_scale_is_left_out(whole_folder: Path, shelf: Path, unet: Any) -> None:
    network = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    network.save_pretrained(shelf / "eighths")
    names, [note] = judged(whole_folder, shelf)
    assert (names, "one of 8 pixels of its picture, the model of 4" in note) == (["edges"], True)


def test_a_folder_that_is_not_there_stops_the_start(whole_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"DARKROOM_CONTROLNETS: .*nowhere cannot be read"):
        load(whole_folder, controlnets=KeptFolder(tmp_path / "nowhere", 2))


def test_a_file_that_changed_after_the_start_is_a_sentence(whole_folder: Path, shelf: Path) -> None:
    file = judge(whole_folder, controlnets=KeptFolder(shelf, 2)).controlnets.files["edges"]
    save_file({"something": torch.zeros(1)}, shelf / "Edges" / WEIGHTS)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_controlnet(file, torch.float32)


def test_doctor_tells_of_them(whole_folder: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "old.pth").write_bytes(b"\x80")
    monkeypatch.setenv("DARKROOM_CONTROLNETS", str(shelf))
    told = examine(whole_folder)["model"]
    assert (told["faults"], told["controlnets"]) == ((), ["edges"])
    assert any("old.pth is pickled" in note for note in told["notes"])
    monkeypatch.setenv("DARKROOM_CONTROLNETS", str(tmp_path / "nowhere"))
    [fault] = examine(whole_folder)["model"]["faults"]
    assert fault.startswith("DARKROOM_CONTROLNETS: ")


def test_without_the_workers_packages_headers_are_judged(
    whole_folder: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ModelFolder(whole_folder)
    model = OfModel(config_of(folder, "unet"), read_tensors(folder, "unet"), latent_channels=4, pixels_per_latent=4)
    shutil.copytree(shelf / "Edges", shelf / "pooling")
    edit_json(shelf / "pooling" / "config.json", global_pool_conditions=True)
    for name in ("torch", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)
    found = read_controlnets(KeptFolder(shelf, 2), model)
    assert (list(found.files), len(found.faults)) == (["edges"], 1)
