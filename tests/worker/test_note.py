"""What a worker says of itself with each beat."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from app import __version__
from worker.engine.stage import Stage
from worker.note import SelfReport


def test_it_says_how_full_and_how_fast_it_is() -> None:
    at: dict[str, Any] = {"time": 100.0, "rows": 40, "stage": None, "claims": [], "room": [(4, 4)]}
    note = SelfReport(
        device="cpu",
        room=lambda: at["room"],
        attempts=SimpleNamespace(claims=lambda: at["claims"]),  # type: ignore[arg-type]
        stage=lambda: at["stage"],
        rows=lambda: at["rows"],
        clock=lambda: at["time"],
    )
    at |= {"time": 110.0, "rows": 90, "stage": Stage("denoise"), "claims": ["a", "b"], "room": [(4, 2)]}
    busy = note()
    assert (busy.version, busy.device, busy.uptime_seconds) == (__version__, "cpu", 10.0)
    assert (busy.seats, busy.free_seats, busy.jobs, busy.activity) == (4, 2, 2, "denoise")
    assert busy.rows_per_second == 5.0
    at |= {"stage": None}
    assert note().activity != "idle", "a job is held, though nothing is computed at this moment"
    at |= {"time": 130.0, "claims": [], "room": []}
    idle = note()
    assert (idle.activity, idle.rows_per_second, idle.seats, idle.free_seats) == ("idle", 0.0, 0, 0)
    at |= {"time": 140.0, "rows": 5}
    assert note().rows_per_second == 0.0, "another model counts from the beginning"
