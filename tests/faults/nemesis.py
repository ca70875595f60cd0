"""Who kills and pauses all there is, at random moments, and loses replies of Redis.

Everything that it does becomes a line of the history. Refuses to know what comes of it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.faults.installation import Service, Valkey
from tests.faults.load import History
from tests.faults.proxy import Losses

DECK = {"redis": 2, "gateway": 2, "webhooks": 2, "pause": 7, "kill": 6, "stop": 3, "replies": 4}
"""What the nemesis does, and how often of so many times. At first it does each once, so that a short run has all."""


class Nemesis(threading.Thread):
    """Kills and pauses, at random moments, everything there is, and for moments loses a third of Redis' replies."""

    def __init__(self, service: Service, valkey: Valkey, history: History, losses: Losses, *, seed: int) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._service, self._valkey, self._history, self._losses = service, valkey, history, losses
        self._chance = random.Random(seed)
        self.over = threading.Event()
        self.did: Counter[str] = Counter()

    def run(self) -> None:
        for what in self._deck():
            if self.over.wait(self._chance.uniform(0.2, 0.8)):
                return
            self._strike(what)

    def _deck(self) -> Iterator[str]:
        yield from self._chance.sample([*DECK], len(DECK))
        while True:
            yield from self._chance.sample([*DECK], sum(DECK.values()), counts=DECK.values())

    def _strike(self, what: str) -> None:
        worker = self._chance.choice([name for name in self._service.pids if name.startswith("worker")])
        match what:
            case "redis":
                self._note("redis killed")
                self._valkey.is_killed()
                time.sleep(self._chance.uniform(0.1, 0.6))
                self._valkey.comes()
            case "gateway" | "webhooks":
                self._kill(what)
            case "pause":
                self._note("worker paused", pid=self._service.pids[worker])
                pid = self._service.pids[worker]
                self._service.signal(worker, signal.SIGSTOP)
                threading.Timer(self._chance.uniform(1.0, 4.0), _continue, [pid]).start()
            case "kill":
                self._kill(worker)
            case "stop":
                self._note("worker told to stop", pid=self._service.pids[worker])
                self._service.signal(worker, signal.SIGTERM)
            case "replies":
                self._note("replies lost for a while")
                self._losses.rate = 0.3
                self.over.wait(self._chance.uniform(0.3, 1.0))
                self._losses.rate = 0.0

    def _kill(self, name: str) -> None:
        self._note(f"{name.rstrip('0123456789')} killed", pid=self._service.pids[name])
        self._service.signal(name, signal.SIGKILL)

    def _note(self, what: str, **fields: Any) -> None:
        self.did[what] += 1
        self._history.write("info", "nemesis", what=what, **fields)


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
