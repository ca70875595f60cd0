"""What a model folder is called, and what its names say of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.contract.common.exits import CANNOT_START
from app.contract.messages.model_name import BUNDLED_MODEL, IllegalName, is_legal, model_name
from worker import main as worker_main
from worker.examine import examine
from worker.models.few_steps import few_steps, may_be_turbo
from worker.settings import WorkerSettings

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in the hub's cache, with the bundled model's files."""
    folder = tmp_path / "hub" / "models--Some-One--SD-Turbo" / "snapshots" / REVISION
    folder.parent.mkdir(parents=True)
    folder.mkdir()
    for part in BUNDLED_MODEL.iterdir():
        (folder / part.name).symlink_to(part)
    return folder


def worker_calls_it(folder: Path) -> str:
    return WorkerSettings(model=folder).name()


def doctor_calls_it(folder: Path) -> str:
    """Its name, or all that is wrong with it."""
    model = examine(folder)["model"]
    return " ".join(model["faults"]) or str(model["name"])


def test_a_snapshot_has_its_repositorys_name_whichever_way_it_is_reached(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(snapshot)
    (tmp_path / "link to link").symlink_to(tmp_path / "link")
    for way in (snapshot, tmp_path / "link", tmp_path / "link to link", snapshot / ".." / REVISION):
        assert worker_calls_it(way) == "sd-turbo", way
    for way in (snapshot, tmp_path / "link"):
        assert doctor_calls_it(way) == "sd-turbo", way


def test_a_linked_folder_has_one_name(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(BUNDLED_MODEL)
    assert worker_calls_it(tmp_path / "current") == doctor_calls_it(tmp_path / "current") == "starter"


def test_a_folder_that_only_looks_like_a_snapshot(tmp_path: Path) -> None:
    assert model_name(tmp_path / "photos" / "snapshots" / "March") == "march"
    assert model_name(tmp_path / "models--gpt2" / "snapshots" / REVISION) == "gpt2"


@pytest.mark.parametrize(
    ("folder", "proposed"),
    [
        ("My Model (v2)", "my-model-v2"),
        ("モデル", "my-model"),
        ("Café crème", "cafe-creme"),
        ("m" * 70, "m" * 64),
        ("-draft", "draft"),
        ("a:b", "a-b"),
    ],
)
def test_a_name_that_no_request_could_use_is_one_sentence_with_one_that_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, proposed: str
) -> None:
    path = tmp_path / folder
    path.mkdir()
    with pytest.raises(IllegalName) as caught:
        worker_calls_it(path)
    assert str(caught.value).endswith(f"DARKROOM_MODEL_NAME={proposed}")
    assert "\n" not in str(caught.value)
    assert doctor_calls_it(path) == str(caught.value), "the same words, before it looks into the folder"
    assert is_legal(proposed)
    assert WorkerSettings(model=path, model_name=proposed).name() == proposed
    monkeypatch.setenv("DARKROOM_MODEL_NAME", proposed)
    assert "model_index.json" in doctor_calls_it(path)


@pytest.mark.parametrize("chosen", ["My Model", "a/b", "-x", "x" * 65, "starter\n"])
def test_a_chosen_name_has_to_be_legal(chosen: str) -> None:
    with pytest.raises(IllegalName, match=re.escape("DARKROOM_MODEL_NAME is no name of a model")):
        WorkerSettings(model=BUNDLED_MODEL, model_name=chosen).name()


def test_no_chosen_name_is_an_empty_one() -> None:
    assert WorkerSettings(model=BUNDLED_MODEL, model_name="").name() == "starter"


@pytest.mark.parametrize(
    ("scheduler", "name", "steps", "guidance"),
    [
        ("LCMScheduler", "dreamshaper-7", 4, 1.0),
        ("TCDScheduler", "dreamshaper-7", 4, 0.0),
        ("EulerDiscreteScheduler", "sd-turbo", 4, 0.0),
        ("EulerAncestralDiscreteScheduler", "SDXL-Turbo", 4, 0.0),
        ("EulerDiscreteScheduler", "sdxl-lightning-8step", 8, 0.0),
        ("EulerDiscreteScheduler", "RealVisXL_V4.0_Lightning", 4, 0.0),
        ("DDIMScheduler", "Hyper-SD15-1step", 1, 0.0),
        ("PNDMScheduler", "LCM_Dreamshaper_v7", 4, 1.0),
    ],
)
def test_distilled_models_are_known(scheduler: str, name: str, steps: int, guidance: float) -> None:
    found = few_steps([scheduler], [name])
    assert found is not None
    assert (found.num_inference_steps, found.guidance_scale) == (steps, guidance)


@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "hyperrealism", "calcm", "starter", "30steps-of-joy"])
def test_others_are_not(name: str) -> None:
    assert few_steps(["PNDMScheduler"], [name]) is None


def test_trailing_euler_is_a_hint_and_no_more() -> None:
    trailing = {"timestep_spacing": "trailing"}
    assert few_steps(["EulerDiscreteScheduler"], ["mine"]) is None
    assert may_be_turbo("EulerDiscreteScheduler", trailing)
    assert not may_be_turbo("EulerDiscreteScheduler", {"timestep_spacing": "leading"})
    assert not may_be_turbo("EulerDiscreteScheduler", trailing | {"rescale_betas_zero_snr": True})
    assert not may_be_turbo("DPMSolverMultistepScheduler", trailing)


def test_the_worker_says_so_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Three full loads and a traceback, before."""

    def opened(*args: object, **options: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(worker_main, "configure", lambda *_, **__: None)
    for name in ("_open_store", "connect", "start"):
        monkeypatch.setattr(worker_main, name, opened)
    monkeypatch.setenv("DARKROOM_MODEL", str(tmp_path / "My Model (v2)"))
    assert worker_main.run() == CANNOT_START
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("darkroom worker: ")
    assert line.endswith("DARKROOM_MODEL_NAME=my-model-v2")
