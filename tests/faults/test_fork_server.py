"""What the other tests here stand on."""

from __future__ import annotations

from pathlib import Path

from tests.faults.installation import ForkServer, is_alive
from tests.waiting import until


def test_a_process_that_dies_at_once_says_why(fork_server: ForkServer, tmp_path: Path) -> None:
    """It said nothing, and finding out took an hour."""
    log = tmp_path / "log"
    pid = fork_server.bear("worker", {"DARKROOM_SEATS": "none"}, log)
    until(lambda: not is_alive(pid))
    said = log.read_text()
    assert "Traceback" in said
    assert "DARKROOM_SEATS" in said
