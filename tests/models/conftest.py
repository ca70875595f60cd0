"""Model folders: a whole one, copies of it with one thing broken, and a machine without a network."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from tests.engine.tiny_models import save_tiny_model, save_tiny_xl
from worker.models.quiet import quiet_libraries

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Some of diffusers' schedulers hand tensors to numpy in a way that numpy 2 deprecates. Not ours to mend."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning"))


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as save_pretrained writes it. Not to be changed."""
    with quiet_libraries():
        return save_tiny_model(tmp_path_factory.mktemp("models") / "Tiny", prediction_type="v_prediction")


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole_folder, tmp_path / "tiny")


@pytest.fixture(scope="session")
def whole_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of SDXL. Not to be changed."""
    with quiet_libraries():
        return save_tiny_xl(tmp_path_factory.mktemp("models") / "Tiny-XL")


@pytest.fixture
def xl_folder(whole_xl_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole_xl_folder, tmp_path / "tiny-xl")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise AssertionError("a model was looked for on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
