"""Whether an operator wants this worker to leave with its last job. A command says so at once, and each beat says it
again, since a command may be lost. Knows which of the two is newer. Refuses to know what leaving is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger()


class Draining:
    """For any thread. `changed` is called after each change."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.is_wanted = False
        self.commands = 0
        """Heard so far."""
        self._changed = changed
        self._hearing = threading.Lock()

    def command(self, wanted: bool) -> None:
        """What an operator has just said."""
        with self._hearing:
            self.commands += 1
            self._become(wanted)

    def beat(self, wanted: bool, *, commands: int) -> None:
        """What a beat has answered that was sent when so many commands had been heard. One that came meanwhile is newer
        than what the beat may have read."""
        with self._hearing:
            if commands == self.commands:
                self._become(wanted)

    def _become(self, wanted: bool) -> None:
        if wanted is not self.is_wanted:
            # It was taken back, or Redis has lost it.
            log.info("draining" if wanted else "taking jobs again: no drain of this worker is known any more")
            self.is_wanted = wanted
            self._changed()
