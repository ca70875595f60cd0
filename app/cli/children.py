"""Processes that are kept alive: started, started again after a death, ended in time. Knows nothing of what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.cli.own_program import installed
from app.cli.parent_watch import PARENT_PIPE
from app.contract.common.exits import CANNOT_START, DRAINED

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a dead child is started again, doubled at each death."""

HOPELESS_PAUSE = 300.0
"""Seconds after a death with which it said that it cannot start. Somebody may have mended what it named meanwhile."""

STEADY_SECONDS = 60.0
"""A child that lived this long starts with the shortest pause again."""

LONGEST_LOG = 10_000_000
"""Bytes after which a child's log is set aside, at a start, as `<name>.log.1`."""


class Child:
    """One process and its history."""

    def __init__(
        self, name: str, *, logs: Path, process: str | None = None, own: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """`process` is the command it runs, if that is not its name. `own` makes what the environment of each start has
        beside what all children have."""
        self.name, self.process_name = name, process or name
        self._own = own
        self.log = logs / f"{name}.log"
        self.deaths = 0
        self.last_code: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._pause = SHORTEST_PAUSE
        self._started = 0.0
        self._start_at = 0.0

    def start_when_due(self, now: float, environment: Mapping[str, str], *, keep: Sequence[int]) -> None:
        """Start it unless it runs or waits. `keep` are descriptors it inherits, the parent's pipe first."""
        if self.process is not None or now < self._start_at or self.was_drained:
            return
        if self.log.exists() and self.log.stat().st_size > LONGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._log_began = log.tell()
            # Its own session, so that a Ctrl-C on the terminal reaches it only through us, once and in order.
            self.process = subprocess.Popen(
                # Not a module of this Python: `ps` shows `darkroom worker`.
                [installed(), self.process_name],
                env=dict(environment) | {PARENT_PIPE: str(keep[0])} | dict(self._own()),
                pass_fds=keep,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started = now

    def note_death(self, now: float) -> bool:
        """Has it died since it was last asked? Then decide when it starts again."""
        code = self.process.poll() if self.process else None
        if code is None:
            return False
        self.process, self.last_code = None, code
        self.deaths += 1
        if now - self._started > STEADY_SECONDS:
            self._pause = SHORTEST_PAUSE
        self._start_at = now + (HOPELESS_PAUSE if self.says_it_cannot_start else self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True

    @property
    def says_it_cannot_start(self) -> bool:
        return self.last_code == CANNOT_START

    @property
    def was_drained(self) -> bool:
        """Whoever wants it back starts `darkroom up` again."""
        return self.last_code == DRAINED

    def last_words(self, lines: int = 5) -> str:
        """The end of what it wrote since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_began)
            return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, until: float) -> None:
        """Wait for its end; kill it, and what it may have started, when the time is up."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
