"""What was found out is known at the next start under the same circumstances; a spoilt file costs nothing but that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker.remembered import LARGEST_FILE, Remembered

HERE = {"device": "cpu, x86_64", "threads": 2, "betas": (0.1, 0.2)}


@pytest.fixture
def remembered(tmp_path: Path) -> Remembered:
    return Remembered(tmp_path / "folder", "numbers", HERE)


def known(remembered: Remembered) -> list[int] | None:
    return remembered.recall(lambda content: [int(number) for number in content])


def test_it_is_known_under_the_same_circumstances_only(remembered: Remembered, tmp_path: Path) -> None:
    assert known(remembered) is None
    remembered.keep([1, 2])
    assert known(remembered) == [1, 2]
    assert known(Remembered(tmp_path / "folder", "numbers", dict(reversed(HERE.items())))) == [1, 2]
    other = Remembered(tmp_path / "folder", "numbers", HERE | {"threads": 4})
    assert known(other) is None
    other.file.write_bytes(remembered.file.read_bytes())
    assert known(other) is None, "what stands in a file counts, not its name"
    assert {entry.suffix for entry in remembered.folder.iterdir()} == {".json"}, "nothing half-written stays"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", json.dumps({"circumstances": {}}), "[" * 60_000, "\ud800"],
    ids=["empty", "torn", "a list", "null", "nothing in it", "deep", "no text"],
)
def test_a_damaged_file_only_costs_finding_out_again(remembered: Remembered, content: str) -> None:
    remembered.folder.mkdir()
    remembered.file.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert known(remembered) is None
    remembered.keep([3])
    assert known(remembered) == [3]


def test_a_file_torn_anywhere(remembered: Remembered) -> None:
    remembered.keep([1, 2])
    whole = remembered.file.read_bytes()
    for length in range(len(whole)):
        remembered.file.write_bytes(whole[:length])
        assert known(remembered) is None


@pytest.mark.parametrize("content", [["x"], [None], 3, {"a": 1}])
def test_what_its_reader_refuses_is_not_believed(remembered: Remembered, content: Any) -> None:
    remembered.keep(content)
    with capture_logs() as logs:
        assert known(remembered) is None
    assert [entry["what"] for entry in logs] == ["numbers"]


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("not a folder")
    remembered = Remembered(tmp_path / "folder", "numbers", HERE)
    remembered.keep([1])
    assert known(remembered) is None


def test_what_could_not_be_read_again_is_not_written(remembered: Remembered) -> None:
    remembered.keep([1])
    remembered.keep([1] * LARGEST_FILE)
    assert known(remembered) == [1]


def test_without_a_folder_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path))
    remembered = Remembered(None, "numbers", HERE)
    remembered.keep([1])
    assert remembered.file.parent == tmp_path / "darkroom" / "profiles"
    assert known(remembered) == [1]
