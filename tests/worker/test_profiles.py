"""What was measured is remembered, under the circumstances it was measured in, and nothing wrong is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker import profiles
from worker.engine.profile import Profile
from worker.profiles import recall, remember, start_engine
from worker.settings import WorkerSettings

HERE = {"device": "cpu, x86_64", "threads": 2}
MEASURED = Profile(
    rows=16, row_cost=7.7e8, rows_a_second={2: 46.2, 16: 137.0}, seconds={2: 0.05, 16: 0.12}, decode_seconds=0.25
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profiles" / "one.json"


def test_what_was_measured_is_known_at_the_next_start(file: Path) -> None:
    assert recall(file, HERE) is None
    remember(file, MEASURED, HERE)
    assert recall(file, HERE) == MEASURED
    unfinished = replace(MEASURED, is_complete=False)
    remember(file, unfinished, HERE)
    assert recall(file, HERE) == unfinished
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
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}, "profile": {"rows": 8, "row_cost": 1,'
        ' "rows_a_second": {"2": 1}, "seconds": {"2": Infinity}, "decode_seconds": 1, "is_complete": true}}',
        '{"circumstances": {"device": "cpu, x86_64", "threads": 2}, "profile": {"rows": 8, "row_cost": 1,'
        ' "rows_a_second": {"2": 1}, "seconds": {}, "decode_seconds": 1, "is_complete": true}}',
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


class SlowEngine:
    """Measures one size at each start, and is complete after the third."""

    known: Profile | None

    def __init__(self, bundle: Any, **options: Any) -> None: ...

    def warm_up(self, known: Profile | None, *, on_measured: Any) -> Profile:
        type(self).known = known
        sizes = [2, 4, 8][: len(known.seconds) + 1 if known else 1]
        on_measured(sizes[-1])
        measured = dict.fromkeys(sizes, 1.0)
        return Profile(8, 1.0, measured, is_complete=len(sizes) == 3, seconds=measured, decode_seconds=2.0)


def test_an_unfinished_profile_is_remembered_and_given_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "Engine", SlowEngine)
    monkeypatch.setattr(profiles, "_circumstances", lambda bundle, settings: HERE)
    bundle: Any = "a model"
    settings = WorkerSettings(profile_folder=tmp_path)
    told: list[int] = []
    for before in (None, [2], [2, 4]):
        start_engine(bundle, settings, on_measured=told.append)
        assert (SlowEngine.known and [*SlowEngine.known.seconds]) == before
    assert told == [2, 4, 8]
