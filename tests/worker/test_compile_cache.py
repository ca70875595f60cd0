"""Compiled code is loaded and run: nobody else may write to where it is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.compile_cache import VARIABLE, keep_compiled
from worker.models.errors import ModelError


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    # First set, so that it is gone again afterwards.
    monkeypatch.setenv(VARIABLE, "")


def test_it_is_kept_beside_the_profiles_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "profiles" / "compiled"
    folder.mkdir(parents=True, mode=0o777)
    folder.chmod(0o777)
    keep_compiled(tmp_path / "profiles")
    assert os.environ[VARIABLE] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_who_chose_a_folder_is_let_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    keep_compiled(tmp_path)
    assert os.environ[VARIABLE] == "/elsewhere"
    assert not (tmp_path / "compiled").exists()


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiled").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ModelError, match=r"not this user's own"):
        keep_compiled(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "compiled").symlink_to(tmp_path / "other")
    with pytest.raises(ModelError, match=r"not this user's own"):
        keep_compiled(tmp_path)


def test_where_it_cannot_be_kept_the_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"^DARKROOM_COMPILE: .* Not a directory"):
        keep_compiled(tmp_path / "file")
