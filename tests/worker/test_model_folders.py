"""Folders of models beside a worker: which are served, what is remembered of each, and what changes meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from app.contract.messages.card import ModelCard
from tests.engine.driving import StoppedClock
from tests.engine.tiny_models import save_tiny_model
from worker import model_folders
from worker.errors import CannotStart
from worker.loading import start_with_several
from worker.model_folders import LONGEST_RETRY_SECONDS, LOOK_SECONDS, RETRY_SECONDS, ModelFolders
from worker.models.judge import Verdict
from worker.settings import WorkerSettings
from worker.starting import Starting


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny", prediction_type="epsilon")


@pytest.fixture
def models(tiny: Path, tmp_path: Path) -> Path:
    """A folder with two models, and with what lies about in such folders."""
    folder = tmp_path / "models"
    for name in ("one", "two"):
        shutil.copytree(tiny, folder / name)
    (folder / "README.md").write_text("ours")
    (folder / ".cache").mkdir()
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"name": "one"})


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is taken for a good one, which costs less than a look at it."""
    monkeypatch.setattr(model_folders, "judge", lambda path, **options: Verdict(path=path))


def folders_of(*paths: Path, clock: StoppedClock | None = None, **settings: object) -> ModelFolders:
    remembered = paths[0].parent / "remembered"
    given = {"models": paths, "device": "cpu", "profile_folder": remembered, "scorer": "off"} | settings
    now = clock or StoppedClock()
    return ModelFolders(WorkerSettings.model_validate(given), clock=lambda: now.now)


@pytest.mark.usefixtures("unjudged")
def test_a_folder_of_folders_or_a_list(models: Path) -> None:
    assert list(folders_of(models).look()) == ["one", "two"]
    assert list(folders_of(models / "two", models / "one").look()) == ["two", "one"]
    found = folders_of(models).look()["one"]
    assert (found.path, found.settings.model, found.card) == (models / "one", models / "one", None)


def test_what_cannot_be_served_is_said_and_passed_over(
    models: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "two" / "unet" / "config.json").write_text("{")
    shutil.copytree(tiny, models / "No Name")
    (models / "scorer").mkdir()
    (models / "scorer" / "config.json").write_text('{"model_type": "clip"}')
    shutil.copytree(tiny, models.parent / "others" / "one")
    made = folders_of(models, models.parent / "others", models.parent / "missing")
    assert list(made.look()) == ["one"]
    faults = " ".join(made.faults)
    for words in ("two", "No Name", "DARKROOM_SCORER", "the name of another model, one", "missing"):
        assert words in faults
    assert capsys.readouterr().out.count("a folder is not served") == 5


@pytest.mark.usefixtures("unjudged")
def test_folders_that_change_while_they_are_looked_at_cost_no_model(
    models: Path, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "bad").mkdir()
    (models / "bad" / "model_index.json").write_text("{}")
    made = folders_of(models, clock=clock)
    before = dict(made.look())
    faults = made.faults

    def stale(_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    clock.now += LOOK_SECONDS
    with monkeypatch.context() as patched:
        patched.setattr(model_folders, "stamp_of", stale)
        assert made.look() == before
    assert made.faults == faults
    assert capsys.readouterr().out.count("the folders cannot be looked at") == 1
    # And one that goes between the listing of its parent and its own.
    list_folder = os.scandir

    def scandir(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "unet":
            os.rename(path, models.parent / "moved away")
        return list_folder(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        left = [name for name, _, _ in model_folders.stamp_of(models / "one")]
    assert "model_index.json" in left
    assert not [name for name in left if name.startswith("unet")]


def test_nothing_to_serve_is_no_start(models: Path) -> None:
    for name in ("one", "two"):
        (models / name / "unet" / "config.json").unlink()
    settings = WorkerSettings.model_validate({"models": [models], "device": "cpu", "scorer": "off"})
    with pytest.raises(CannotStart, match=r"^DARKROOM_MODELS: no model in .*models can be served: .*unet"):
        start_with_several(settings, Starting(None, "w1"))  # type: ignore[arg-type]


def test_a_model_keeps_one_name(models: Path) -> None:
    """Whether it is in a list or is the only one."""
    with pytest.raises(ValueError, match="DARKROOM_MODEL does not go with DARKROOM_MODELS"):
        WorkerSettings.model_validate({"models": [models], "model": models / "one"})
    with pytest.raises(ValueError, match="DARKROOM_MODEL_NAME does not go with DARKROOM_MODELS"):
        WorkerSettings.model_validate({"models": [models], "model_name": "mine"})


@pytest.mark.usefixtures("unjudged")
def test_folders_come_and_go_while_it_runs(models: Path, tiny: Path, clock: StoppedClock) -> None:
    made = folders_of(models, clock=clock)
    assert set(made.look()) == {"one", "two"}
    shutil.rmtree(models / "two")
    shutil.copytree(tiny, models / "three")
    assert set(made.look()) == {"one", "two"}, "nobody walks through folders every second"
    clock.now += LOOK_SECONDS
    assert set(made.look()) == {"one", "three"}


def test_a_folder_is_judged_again_when_it_has_changed(
    models: Path, tiny: Path, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is still being copied, for instance."""
    (models / "two" / "unet" / "config.json").unlink()
    made = folders_of(models, clock=clock)
    made.look()
    judged: list[Path] = []
    judge = made._judge
    monkeypatch.setattr(ModelFolders, "_judge", lambda self, path, *rest: judged.append(path) or judge(path, *rest))
    clock.now += LOOK_SECONDS
    assert set(made.look()) == {"one"}
    assert judged == []
    shutil.copy(tiny / "unet" / "config.json", models / "two" / "unet")
    clock.now += LOOK_SECONDS
    assert set(made.look()) == {"one", "two"}
    assert judged == [models / "two"]


@pytest.mark.usefixtures("unjudged")
def test_what_was_learned_of_a_folder_is_there_at_the_next_start(models: Path, card: ModelCard) -> None:
    made = folders_of(models)
    made.opened(made.look()["one"], card, 12.5)
    with_more = card.model_copy(update={"vocabulary": ("circle",)})
    made.more_is_known(with_more)
    again = folders_of(models).look()
    assert (again["one"].card, again["one"].load_seconds) == (with_more, 12.5)
    assert again["two"].card is None
    assert folders_of(models, seats=2).look()["one"].card is None, "a card says how many seats there are"
    weights = models / "one" / "vae" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert folders_of(models).look()["one"].card is None, "its files may be others"


@pytest.mark.usefixtures("unjudged")
def test_the_first_load_measures_and_says_little_of_others(models: Path, card: ModelCard) -> None:
    made = folders_of(models)
    for seconds, average in ((60.0, 60.0), (5.0, 5.0), (7.0, 5.6), (5.6, 5.6)):
        made.opened(made.look()["one"], card, seconds)
        assert made.look()["one"].load_seconds == pytest.approx(average)


@pytest.mark.usefixtures("unjudged")
def test_one_that_cannot_be_loaded_is_tried_less_and_less(models: Path, card: ModelCard, clock: StoppedClock) -> None:
    made = folders_of(models, clock=clock)
    pauses = []
    for _ in range(7):
        assert made.may_be_tried(made.look()["one"])
        pauses.append(made.failed(made.look()["one"]))
        assert not made.may_be_tried(made.look()["one"])
        clock.now += pauses[-1]
    assert pauses[:2] == [RETRY_SECONDS, 2 * RETRY_SECONDS]
    assert pauses[-1] == LONGEST_RETRY_SECONDS
    made.opened(made.look()["one"], card, 1.0)
    assert made.failed(made.look()["one"]) == RETRY_SECONDS
    os.utime(models / "one" / "model_index.json", ns=(1, 1))
    clock.now += LOOK_SECONDS
    assert made.may_be_tried(made.look()["one"]), "somebody has changed it"
