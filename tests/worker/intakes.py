"""How a test ends the intakes that it has run in threads of its own process."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tests.waiting import WAIT_SECONDS
from worker.intake import Intake

OWN_THREADS = ("leases", "books", "ears")


def end(running: Iterable[tuple[Intake, threading.Thread]]) -> None:
    """All of them, each with the thread that it claims in. Then nothing uses their clients any more: one that was
    closed under a thread would connect anew, and nobody would close that."""
    for intake, thread in running:
        intake.request_stop()
        thread.join()
        intake.leave()
    for thread in threading.enumerate():
        if thread.name in OWN_THREADS:
            thread.join(WAIT_SECONDS)
