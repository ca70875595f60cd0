"""`darkroom up --model A --model B`: a worker for each, told apart when one dies. Nothing is started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.up import CannotOpen, Supervisor
from app.contract.common.environment import WORKER_NAME
from app.contract.messages.model_name import BUNDLED_MODEL


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DARKROOM_MODEL", "DARKROOM_MODEL_NAME", "DARKROOM_DEFAULT_MODEL", "DARKROOM_WORKER_METRICS_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_each_model_has_a_worker_and_the_first_is_meant_by_requests_that_name_none(tmp_path: Path) -> None:
    supervisor = Supervisor(data=tmp_path, others=[Path("starter-unclip"), tmp_path / "Other"])
    names = supervisor.prefer_own_model()
    children = supervisor.children_of(names)
    assert names == ["starter-unclip", "other"]
    assert [child.name for child in children] == [
        "gateway", "worker", "worker-starter-unclip", "worker-other", "webhooks",
    ]  # fmt: skip
    assert [child.process_name for child in children] == ["gateway", "worker", "worker", "worker", "webhooks"]
    assert supervisor.environment["DARKROOM_DEFAULT_MODEL"] == "starter"
    assert supervisor.workers == {"worker", "worker-starter-unclip", "worker-other"}


def test_the_worker_of_another_model_has_its_folder_and_not_the_first_ones_name(tmp_path: Path) -> None:
    supervisor = Supervisor(data=tmp_path, others=[Path("starter-unclip")])
    supervisor.lost_workers.open("redis://127.0.0.1:1")
    own = supervisor.own_of("worker-starter-unclip", Path("starter-unclip"))
    assert own.pop(WORKER_NAME)
    of_the_first = {"DARKROOM_MODEL_NAME": "", "DARKROOM_PRIOR": "", "DARKROOM_VAE": ""}
    assert own == {"DARKROOM_MODEL": "starter-unclip"} | of_the_first


@pytest.mark.parametrize("twice", [BUNDLED_MODEL, Path("starter")])
def test_two_models_of_one_name_are_refused(tmp_path: Path, twice: Path) -> None:
    with pytest.raises(CannotOpen, match="two of the models are called starter; rename a folder"):
        Supervisor(data=tmp_path, others=[twice]).prefer_own_model()


def test_one_port_of_metrics_is_not_enough_for_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_WORKER_METRICS_PORT", "9100")
    with pytest.raises(CannotOpen, match="one port for several workers"):
        Supervisor(data=tmp_path, others=[Path("starter-unclip")]).prefer_own_model()
    assert Supervisor(data=tmp_path).prefer_own_model() == []
