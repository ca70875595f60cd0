"""Whoever hangs before there is an engine to watch is ended as well."""

from __future__ import annotations

import subprocess
import sys
import threading

from app.contract.exits import LOST_DEVICE
from worker.watchdog import ends_within

HANGING = """
import threading
from worker.watchdog import ends_within
with ends_within(0.3, what="warming up"):
    threading.Event().wait(60)
"""


def test_what_never_ends_ends_the_process_and_says_what_it_was() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == LOST_DEVICE
    assert "warming up" in ended.stdout + ended.stderr


def test_what_ends_in_time_leaves_no_timer_behind() -> None:
    before = threading.active_count()
    with ends_within(600, what="nothing"):
        assert threading.active_count() == before + 1
    [timer] = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)] or [None]
    assert timer is None or timer.finished.is_set()
