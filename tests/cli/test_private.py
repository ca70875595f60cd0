"""What the service keeps on disk belongs to one user, under any umask, and is there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.kept_secrets import SIGNING_KEY, kept_secret
from app.cli.private import NotOurs, own_folder, private_folder, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask_0() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_0")
def test_what_is_made_is_private(tmp_path: Path) -> None:
    own_folder(tmp_path / "data")
    private_folder(tmp_path / "data" / "logs")
    key = kept_secret(tmp_path / "data", SIGNING_KEY)
    assert mode(tmp_path / "data") == mode(tmp_path / "data" / "logs") == 0o700
    assert mode(tmp_path / "data" / "signing.key") == 0o600
    assert len(key) == 64


def test_a_folder_that_others_may_write_in_is_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for before, after in ((0o777, 0o755), (0o755, 0o755), (0o1777, 0o1777)):
        tmp_path.chmod(before)
        own_folder(tmp_path)
        assert mode(tmp_path) == after
        assert (str(tmp_path) in capsys.readouterr().err) is (before != 0o755)


def test_a_folder_for_secrets_is_closed_to_readers_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = tmp_path.stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    with pytest.raises(NotOurs, match="another user"):
        private_folder(tmp_path)


@pytest.mark.parametrize("left", [b"", b"\n", b"0123456789", b"\xff" * 64], ids=["empty", "blank", "short", "no text"])
def test_a_signing_key_that_was_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str], left: bytes) -> None:
    (tmp_path / "signing.key").write_bytes(left)
    key = kept_secret(tmp_path, SIGNING_KEY)
    assert "was cut short" in capsys.readouterr().err
    assert len(key) == 64
    assert kept_secret(tmp_path, SIGNING_KEY) == key
    assert capsys.readouterr().err == ""


def test_a_signing_key_of_ones_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text("my own key, of thirty-two characters or more\n")
    assert kept_secret(tmp_path, SIGNING_KEY) == "my own key, of thirty-two characters or more"


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", "new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
