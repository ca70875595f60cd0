"""What was measured is remembered, under the circumstances it was measured in, and nothing impossible is believed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worker import profiles
from worker.compile_cache import VARIABLE
from worker.engine.costs import Profile
from worker.engine.profile import Told
from worker.models.errors import ModelError
from worker.profiles import start_engine
from worker.provenance import Provenance
from worker.remembered import Remembered
from worker.settings import WorkerSettings

HERE = {"device": "cpu, x86_64", "threads": 2}
MEASURED = Profile(
    rows=16, row_cost=7.7e8, rows_a_second={2: 46.2, 16: 137.0}, seconds={2: 0.05, 16: 0.12}, decode_seconds=0.25
)


@pytest.fixture
def remembered(tmp_path: Path) -> Remembered:
    return Remembered(tmp_path, "profile", HERE)


@pytest.mark.parametrize(
    "profile",
    [MEASURED, replace(MEASURED, is_complete=False), Profile(rows=None, row_cost=1.0, rows_a_second={})],
    ids=["whole", "unfinished", "unlimited"],
)
def test_what_was_measured_is_known_at_the_next_start(remembered: Remembered, profile: Profile) -> None:
    remembered.keep(asdict(profile))
    assert remembered.recall(profiles._believed) == profile


def test_a_file_of_the_version_before_is_read(remembered: Remembered) -> None:
    """By its name and by its form."""
    assert remembered.file.name == "55585294fb3a61448ebcbf399c87bfe8.json"
    remembered.file.write_text(json.dumps({"circumstances": HERE, "profile": asdict(MEASURED)}))
    assert remembered.recall(profiles._believed) == MEASURED


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": 0},
        {"rows": "8"},
        {"row_cost": -1},
        {"seconds": {"2": float("inf"), "16": 1}},
        {"seconds": {}},
        {"rows_a_second": [46.2]},
        {"decode_seconds": None},
    ],
    ids=str,
)
def test_what_cannot_be_is_measured_again(remembered: Remembered, changed: dict[str, Any]) -> None:
    remembered.keep(asdict(MEASURED) | changed)
    assert remembered.recall(profiles._believed) is None


class SlowEngine:
    """Measures one size at each start, and is complete after the third."""

    known: Profile | None

    def __init__(self, bundle: Any, **options: Any) -> None: ...

    def warm_up(self, known: Profile | None, *, told: Told) -> Profile:
        type(self).known = known
        sizes = [2, 4, 8][: len(known.seconds) + 1 if known else 1]
        told.measured(sizes[-1])
        measured = dict.fromkeys(sizes, 1.0)
        return Profile(8, 1.0, measured, is_complete=len(sizes) == 3, seconds=measured, decode_seconds=2.0)


def test_an_unfinished_profile_is_remembered_and_given_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "Engine", SlowEngine)
    monkeypatch.setattr(profiles, "_circumstances", lambda bundle, settings: HERE)
    bundle: Any = SimpleNamespace(checker=None, device=torch.device("cpu"))
    settings = WorkerSettings(profile_folder=tmp_path)
    told: list[int] = []
    for before in (None, [2], [2, 4]):
        start_engine(bundle, bundle, settings, told=Told(told.append))
        assert (SlowEngine.known and [*SlowEngine.known.seconds]) == before
    assert told == [2, 4, 8]


@pytest.mark.parametrize(
    ("wanted", "device", "kept", "came_to"),
    [
        ("auto", "cuda", True, "auto"),
        ("auto", "cuda", False, "off"),
        ("auto", "cpu", True, "off"),
        ("auto", "cpu", False, "off"),
        ("off", "cuda", False, "off"),
        ("on", "cpu", True, "on"),
        ("on", "cuda", False, None),
    ],
)
def test_only_who_insists_on_a_compiled_model_has_to_have_a_place_for_it(
    wanted: Any, device: str, kept: bool, came_to: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kept`: compiled code can be. None for a start that is refused."""
    chosen: list[str] = []

    class Choosing(SlowEngine):
        def __init__(self, bundle: Any, **options: Any) -> None:
            chosen.append(options["compile"])

    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(profiles, "Engine", Choosing)
    monkeypatch.setattr(profiles, "_circumstances", lambda bundle, settings: HERE)
    bundle: Any = SimpleNamespace(checker=None, device=torch.device(device))
    settings = WorkerSettings(profile_folder=tmp_path / ("folder" if kept else "file"), compile=wanted)
    with nullcontext() if came_to else pytest.raises(ModelError, match=r"^DARKROOM_COMPILE: "):
        start_engine(bundle, bundle, settings)
    assert chosen == ([came_to] if came_to else [])
    assert (tmp_path / "folder" / "compiled").exists() == (came_to in ("auto", "on"))


def test_a_record_says_that_steps_were_compiled_where_they_can_have_been() -> None:
    plain = Provenance("f" * 64, "1.2.3", "2.13.0", "0.42.1", "cuda, H100", "float16", 2)
    compiled = replace(plain, compiled=True)
    assert compiled.note(reproducible=False)["compiled"] is True
    assert compiled.note(reproducible=True) == plain.note(reproducible=True)
    assert "compiled" not in plain.note(reproducible=False)
