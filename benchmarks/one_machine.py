"""`darkroom up` in a folder of its own, on a free port: the whole service of one machine, and its worker's process.

Knows processes and how they start. Refuses to know what is asked of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from benchmarks.ports import free_port


@dataclass(frozen=True, slots=True)
class Service:
    """One that is ready, over the data folder `data`."""

    data: Path
    url: str
    pid: int

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=60)

    def worker(self) -> psutil.Process:
        """The worker that runs now. RuntimeError if there is none."""
        for process in psutil.Process(self.pid).children():
            if process.cmdline()[-1:] == ["worker"]:
                return process
        raise RuntimeError("no worker runs")


@contextmanager
def one_machine(data: Path, **settings: str) -> Iterator[Service]:
    """Ready, and ended with the context. `settings` are DARKROOM_ variables, short."""
    port = free_port()
    command = [Path(sys.executable).with_name("darkroom"), "up", "--data", data, "--port", str(port)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM", "REDIS"))}
    named = {f"DARKROOM_{name.upper()}": value for name, value in settings.items()}
    with subprocess.Popen(command, env=clean | named, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        try:
            if not up.stdout.readline().startswith("darkroom is ready"):
                raise RuntimeError("the service did not start")
            yield Service(data, f"http://127.0.0.1:{port}", up.pid)
        finally:
            up.send_signal(signal.SIGTERM)
