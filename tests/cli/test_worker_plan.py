"""Which workers `darkroom up` starts, by what was asked for and what the machine has. Nothing is started here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from app.cli.this_machine import cores
from app.cli.up_settings import UpSettings, settings_from_env
from app.cli.worker_plan import Asked, CannotPlan, Machine, PlannedWorker, plan
from app.contract.common.environment import SettingsError
from app.contract.messages.model_name import BUNDLED_MODEL

A, B = Path("starter"), Path("starter-unclip")
ON_A, ON_B = ("worker", "starter"), ("worker-starter-unclip", "starter-unclip")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UP_MODELS", "UP_DEVICES", "UP_WORKERS", "MODEL", "MODELS", "DEVICE"):
        monkeypatch.delenv(f"DARKROOM_{name}", raising=False)


def never() -> Sequence[str]:
    raise AssertionError("this takes torch some seconds, and is not needed")


def planned(
    models: Sequence[Path] = (A,),
    devices: Sequence[str] = ("auto",),
    workers: int | None = None,
    *,
    gpus: Sequence[str] | None = None,
    **environment: str,
) -> list[tuple[str, str, str, int | None]]:
    """Name, model, device and threads of each worker, on eight cores."""
    machine = Machine(cores=8, gpus=never if gpus is None else lambda: gpus)
    found = plan(Asked(tuple(models), tuple(devices), workers), machine, environment)
    return [(each.name, each.model, each.device, each.threads) for each in found]


TWO = ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("asked", "gpus", "starts"),
    [
        ({}, None, [(*ON_A, "auto", None)]),
        ({"devices": ["cpu"]}, None, [(*ON_A, "cpu", None)]),
        ({"devices": ["xla"]}, None, [(*ON_A, "xla", None)]),
        ({"models": [A, B]}, [], [(*ON_A, "cpu", 4), (*ON_B, "cpu", 4)]),
        ({"models": [A, B]}, TWO, [(*ON_A, "cuda:0", None), (*ON_B, "cuda:1", None)]),
        ({"devices": TWO}, None, [(*ON_A, "cuda:0", None), ("worker@2", "starter", "cuda:1", None)]),
        ({"models": [A, B], "devices": TWO, "workers": 2}, None, [(*ON_A, "cuda:0", None), (*ON_B, "cuda:1", None)]),
        ({"models": [A, B], "devices": ["cuda", "cpu"]}, None, [(*ON_A, "cuda:0", None), (*ON_B, "cpu", None)]),
        ({"models": [A, B], "devices": ["cuda:1", "auto"]}, TWO, [(*ON_A, "cuda:1", None), (*ON_B, "cuda:0", None)]),
        ({"models": [A, B], "devices": ["cuda:0"] * 2}, None, [(*ON_A, "cuda:0", None), (*ON_B, "cuda:0", None)]),
        (
            {"models": [A, B], "devices": ["cpu"], "workers": 3},
            None,
            [(*ON_A, "cpu", 2), (*ON_B, "cpu", 2), ("worker@2", "starter", "cpu", 2)],
        ),
        (
            {"models": [A, B], "devices": [f"cuda:{n}" for n in range(4)]},
            None,
            [
                (*ON_A, "cuda:0", None),
                (*ON_B, "cuda:1", None),
                ("worker@2", "starter", "cuda:2", None),
                ("worker-starter-unclip@2", "starter-unclip", "cuda:3", None),
            ],
        ),
        (
            {"workers": 9, "devices": ["cpu"]},
            None,
            [(*ON_A, "cpu", 1), *[(f"worker@{n}", "starter", "cpu", 1) for n in range(2, 10)]],
        ),
    ],
)  # fmt: skip
def test_models_and_devices_are_dealt_in_turn(
    asked: dict[str, Sequence[str]], gpus: Sequence[str] | None, starts: list[tuple[str, str, str, int | None]]
) -> None:
    assert planned(**asked, gpus=gpus) == starts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "gpus", "sentence"),
    [
        (
            {"models": [A, B], "devices": ["cuda:0"]},
            None,
            "2 workers would take cuda:0; .*: --device cuda:0 --device cuda:0$",
        ),
        ({"models": [A, B], "devices": ["cuda"]}, None, "2 workers would take cuda:0; "),
        ({"devices": ["mps"], "workers": 2}, None, "2 workers would take mps; "),
        ({"devices": TWO, "workers": 3}, None, "2 workers would take cuda:0; "),
        ({"models": [A, B]}, TWO[:1], "2 workers do not find a GPU each: there is 1 GPU; .*: --device cuda:0 --device"),
        ({"workers": 3}, TWO, "there are 2 GPUs; .*: --device cuda:0 --device cuda:1 --device cuda:0$"),
        ({"models": [A, B], "workers": 1}, None, "^1 worker cannot have 2 models: each takes one$"),
        ({"devices": TWO, "workers": 1}, None, "^1 worker cannot have 2 devices"),
        ({"devices": ["gpu", "cpu"]}, None, "the device gpu is unknown; name auto, cpu, cuda, cuda:1 or mps"),
        ({"models": [BUNDLED_MODEL, A]}, None, "two of the models are called starter; rename a folder$"),
        ({"models": [A, A]}, None, "called starter; rename a folder; for more workers of one model there is --workers"),
        ({"models": [A, Path("nowhere/at-all")]}, None, "the model folder nowhere/at-all does not exist"),
        ({"models": [Path("nowhere/at-all")]}, None, "the model folder nowhere/at-all does not exist$"),
        (
            {"models": [Path("stater")]},
            None,
            "stater does not exist; the bundled models are .*starter, starter-unclip.*; did you mean starter\\?",
        ),
        ({"models": [A, Path("?")]}, None, "has no name that requests could use"),
        ({"workers": 65, "devices": ["cpu"]}, None, "65 workers are more than the 64"),
    ],
)
def test_what_cannot_be_together_is_refused_in_a_sentence(
    asked: dict[str, Sequence[str]], gpus: Sequence[str] | None, sentence: str
) -> None:
    with pytest.raises(CannotPlan, match=sentence):
        planned(**asked, gpus=gpus)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_looked_at_is_for_the_worker_to_judge() -> None:
    """As one in a home that is shut to whom the service runs as: `up` and `doctor` ended in a traceback. Root may look
    anywhere; a name that is too long fails for everybody, by another error."""
    assert planned([Path("x" * 300, "model")]) == [("worker", "model", "auto", None)]


def test_threads_that_are_said_are_nobodys_to_divide() -> None:
    assert [worker[3] for worker in planned([A, B], ["cpu"], DARKROOM_THREADS="6")] == [None, None]


def test_one_port_of_metrics_is_not_enough_for_two_workers() -> None:
    with pytest.raises(CannotPlan, match="one port for several workers"):
        planned([A, B], ["cpu"], DARKROOM_WORKER_METRICS_PORT="9100")
    assert len(planned([A, B], ["cpu"], DARKROOM_WORKER_METRICS_PORT="0")) == 2
    assert len(planned(DARKROOM_WORKER_METRICS_PORT="9100")) == 1


def test_what_is_said_of_the_first_model_is_meant_for_its_workers_alone() -> None:
    machine = Machine(cores=8, gpus=never)
    found = plan(Asked((A, B), ("cpu",), 3), machine, {"DARKROOM_MODEL_NAME": "painter"})
    assert [each.model for each in found] == ["painter", "starter-unclip", "painter"]
    of_the_first = {"DARKROOM_MODEL_NAME": "", "DARKROOM_PRIOR": "", "DARKROOM_VAE": ""}
    own = {"DARKROOM_DEVICE": "cpu", "DARKROOM_THREADS": "2"}
    assert [each.environment() for each in found] == [
        own | {"DARKROOM_MODEL": "starter"},
        own | {"DARKROOM_MODEL": "starter-unclip"} | of_the_first,
        own | {"DARKROOM_MODEL": "starter"},
    ]
    assert str(found[1]) == "starter-unclip on cpu with 2 threads"


def test_options_go_before_the_settings_of_up_and_these_before_a_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"DARKROOM_MODEL": "models/one", "DARKROOM_DEVICE": "cuda:7"}
    assert Asked().completed(UpSettings(), {}) == Asked((BUNDLED_MODEL,), ("auto",), None)
    assert Asked().completed(UpSettings(), said) == Asked((Path("models/one"),), ("cuda:7",), None)
    monkeypatch.setenv("DARKROOM_UP_MODELS", "starter, /models/two")
    monkeypatch.setenv("DARKROOM_UP_DEVICES", "cuda:0,cpu")
    monkeypatch.setenv("DARKROOM_UP_WORKERS", "4")
    settings = Asked((Path("starter"), Path("/models/two")), ("cuda:0", "cpu"), 4)
    assert Asked().completed(settings_from_env(), said) == settings
    assert Asked((A,), ("cpu",), 2).completed(settings_from_env(), said) == Asked((A,), ("cpu",), 2)
    monkeypatch.setenv("DARKROOM_UP_WORKERS", "0")
    with pytest.raises(SettingsError, match=r"^DARKROOM_UP_WORKERS: "):
        settings_from_env()


def test_of_a_core_with_two_threads_one_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 9}, raising=False)
    for number, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}.items():
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert cores(tmp_path) == 3, "the last tells nothing of its siblings, and counts for itself"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of two models, of a file, and of a folder that is none."""
    for name, file in (("beta", "model_index.json"), ("alpha", "assembly.json"), (".hidden", "model_index.json")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / file).write_text("{}")
    (tmp_path / "models" / "notes").mkdir()
    (tmp_path / "models" / "model_index.txt").write_text("")
    return tmp_path / "models"


def of_several(folders: Sequence[Path], **environment: str) -> Sequence[PlannedWorker]:
    asked = Asked(folders=tuple(folders), devices=("cpu",), workers=2).completed(UpSettings(), environment)
    return plan(asked, Machine(cores=8, gpus=never), environment)


def test_each_worker_may_have_one_of_several_models(shelf: Path) -> None:
    """As the option says, or the setting of a worker."""
    workers = of_several([shelf])
    assert [(each.name, each.model, each.others) for each in workers] == [
        ("worker", "alpha", ("beta",)),
        ("worker@2", "alpha", ("beta",)),
    ]
    own = {"DARKROOM_MODELS": str(shelf), "DARKROOM_DEVICE": "cpu", "DARKROOM_THREADS": "4"}
    assert workers[1].environment() == own
    assert str(workers[0]) == f"one of {shelf} on cpu with 4 threads"
    assert of_several([], DARKROOM_MODELS=f"{shelf}, ") == workers
    named = of_several([Path("starter"), shelf / "beta"])
    assert (named[0].model, named[0].others) == ("starter", ("beta",)), (
        "a bundled model by its name, and one by its folder"
    )
    assert [each.model for each in of_several([shelf / "notes"])] == ["", ""], "that it has none, the worker says"


def test_what_cannot_be_several_models_is_refused_in_a_sentence(shelf: Path) -> None:
    for asked, environment in (
        (Asked((A,), folders=(shelf,)), {}),
        (Asked((A,)), {"DARKROOM_MODELS": str(shelf)}),
        (Asked(folders=(shelf,)), {"DARKROOM_MODEL": "starter"}),
    ):
        with pytest.raises(CannotPlan, match="were both given"):
            asked.completed(UpSettings(), environment)
    with pytest.raises(CannotPlan, match="the folder of models nowhere/at-all does not exist"):
        of_several([shelf, Path("nowhere/at-all")])
    with pytest.raises(CannotPlan, match=r"two of the models are called beta; rename a folder$"):
        of_several([shelf, shelf / "beta"])


def test_each_of_several_workers_has_a_heartbeat_file_of_its_own() -> None:
    """One that all touch says that one of them lives."""
    machine = Machine(cores=8, gpus=never)
    beats = {"DARKROOM_HEARTBEAT_FILE": "/tmp/alive"}
    files = [
        each.environment().get("DARKROOM_HEARTBEAT_FILE") for each in plan(Asked((A,), ("cpu",), 2), machine, beats)
    ]
    assert files == ["/tmp/alive.worker", "/tmp/alive.worker@2"]
    [alone] = plan(Asked((A,), ("cpu",)), machine, beats)
    assert "DARKROOM_HEARTBEAT_FILE" not in alone.environment(), "what all processes are given is its own"
