"""More processes behind the gateway's port: they inherit its listening socket, and the kernel shares out connections.

Knows processes and when to start one again. Refuses to know what they answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from socket import socket

import structlog

from app.cli.own_program import installed
from app.cli.parent_watch import PARENT_PIPE

log = structlog.get_logger()

PAUSE_SECONDS = 1.0
"""Before a dead one is started again. The port is answered meanwhile."""


def processes_by_default() -> int:
    """Two, where there are two cores: one answers while the other collects garbage or renders a list."""
    return min(2, os.cpu_count() or 1)


class GatewayWorkers:
    """`count` further processes, kept alive by threads. They end with this one, however it ends."""

    def __init__(self, count: int, listener: socket, *, environment: dict[str, str]) -> None:
        # Never written: the kernel closes the writing end when this process is gone.
        self._pipe, self._hand = os.pipe()
        self._listener = listener
        self._environment = environment
        self._stopping = threading.Event()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._keepers = [
            threading.Thread(target=self._keep, args=[number], name=f"gateway-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        for keeper in self._keepers:
            keeper.start()

    def ask_to_end(self) -> None:
        """Ask all of them to end."""
        self._stopping.set()
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGTERM)

    def stop(self, *, seconds: float) -> None:
        """End all of them; kill those that take longer."""
        ends = time.monotonic() + seconds
        self.ask_to_end()
        for keeper in self._keepers:
            keeper.join(max(0.0, ends - time.monotonic()))
        for process in list(self._processes.values()):
            process.kill()
        os.close(self._hand)
        os.close(self._pipe)

    def _keep(self, number: int) -> None:
        while not self._stopping.is_set():
            process = self._processes[number] = self._spawn(number)
            if self._stopping.is_set():
                process.terminate()
            code = process.wait()
            if not self._stopping.is_set():
                log.warning("a gateway worker ended; starting it again", number=number, code=code)
                self._stopping.wait(PAUSE_SECONDS)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        command = [str(installed()), "gateway"]
        command += ["--gateway-worker", str(number), "--listener", str(self._listener.fileno())]
        return subprocess.Popen(
            command,
            env=self._environment | {PARENT_PIPE: str(self._pipe)},
            pass_fds=(self._listener.fileno(), self._pipe),
            stdin=subprocess.DEVNULL,
            # A Ctrl-C on the terminal reaches them through us.
            start_new_session=True,
        )
