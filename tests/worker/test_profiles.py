"""What was measured is remembered, under the circumstances it was measured in, and nothing wrong is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.engine.profile import Profile
from worker.profiles import recall, remember

HERE = {"device": "cpu, x86_64", "threads": 2}
MEASURED = Profile(rows=16, row_cost=7.7e8, rows_a_second={2: 46.2, 16: 137.0})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profiles" / "one.json"


def test_what_was_measured_is_known_at_the_next_start(file: Path) -> None:
    assert recall(file, HERE) is None
    remember(file, MEASURED, HERE)
    assert recall(file, HERE) == MEASURED
    unlimited = Profile(rows=None, row_cost=1.0, rows_a_second={})
    remember(file, unlimited, HERE)
    assert recall(file, HERE) == unlimited
    assert [entry.name for entry in file.parent.iterdir()] == ["one.json"], "nothing half-written stays"


def test_other_circumstances_are_measured_anew(file: Path) -> None:
    remember(file, MEASURED, HERE)
    assert recall(file, HERE | {"threads": 4}) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}}',
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}, "profile": {"rows": 0, "row_cost": 1,'
        ' "rows_a_second": {}}}',
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}, "profile": {"rows": "8", "row_cost": 1,'
        ' "rows_a_second": {}}}',
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}, "profile": {"rows": 8, "row_cost": -1,'
        ' "rows_a_second": {}}}',
        "[" * 60_000,
        "\ud800",
    ],
)
def test_a_damaged_file_only_costs_the_measuring(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert recall(file, HERE) is None
    remember(file, MEASURED, HERE)
    assert recall(file, HERE) == MEASURED


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("not a folder")
    remember(tmp_path / "profiles" / "one.json", MEASURED, HERE)
    assert recall(tmp_path / "profiles" / "one.json", HERE) is None
