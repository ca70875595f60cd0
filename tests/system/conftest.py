"""The whole service as a user starts it: real processes, a free port, a fresh data folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import redis

from app.cli.embedded import EmbeddedValkey
from app.contract.redis import keys
from benchmarks.ports import free_port
from tests.waiting import PLAIN, WAIT_SECONDS, until

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
"""The tests find processes through /proc."""

COMMAND = Path(sys.executable).with_name("darkroom")
T = TypeVar("T")


def processes_of(data: Path) -> dict[int, str]:
    """Living processes that were started for a data folder: pid to command line."""
    found: dict[int, str] = {}
    closed: dict[int, tuple[int, str]] = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or (pid := int(place.name)) == os.getpid():
            continue
        try:
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and _names(data, line, place):
                found[pid] = line
        except PermissionError:
            closed[pid] = int(parent), line
        except (OSError, ValueError):
            continue
    # A gateway holds keys, and lets none but root look. Whose child it is, is no secret.
    for pid, (above, line) in sorted(closed.items()):
        if above in found:
            found[pid] = line
    return found


def _names(data: Path, line: str, place: Path) -> bool:
    # Valkey writes its title over its environment, and names its socket there: far from a folder of a long name.
    if str(data) in line or str(data).encode() in (place / "environ").read_bytes():
        return True
    return os.readlink(place / "cwd").startswith(f"{data}/")


@dataclass
class Installation:
    """One `darkroom up` and what a user does with it."""

    data: Path
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    options: list[str] | None = None
    """Instead of --port and --data."""
    cwd: Path | None = None
    process: subprocess.Popen[str] | None = None
    said: str = ""
    """What it wrote on both outputs until `stop`, but for the line that says it is ready."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, without waiting."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
        self.process = subprocess.Popen(
            [COMMAND, "up", *(self.options or ["--port", str(self.port), "--data", str(self.data)])],
            env=environment | self.environment,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A user's umask is no excuse: what is in the folder is for this user alone.
            umask=0,
        )

    def start_and_wait(self) -> None:
        self.start()
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == f"darkroom is ready: {self.url}\n", line or self.output()

    def output(self) -> str:
        """Everything it still has to say, once it has ended."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        return out + err

    def pids(self, name: str) -> list[int]:
        return [pid for pid, line in processes_of(self.data).items() if line.endswith(f"darkroom {name}")]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.said = "".join(self.process.communicate(timeout=WAIT_SECONDS))
        return self.process.returncode

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=WAIT_SECONDS, follow_redirects=True, **PLAIN)

    def redis(self) -> redis.Redis:
        """Its own Valkey."""
        return redis.Redis.from_url(EmbeddedValkey(self.data).url, decode_responses=True)

    def put_worker_to_sleep(self, job_id: str) -> int:
        """The worker sleeps while it draws this job, whose lease does not run out. Its pid, to be killed or
        woken."""
        (pid,) = self.pids("worker")
        with self.redis() as client:
            os.kill(pid, signal.SIGSTOP)
            far = 10**14
            assert client.zadd(keys.LEASES, {job_id: far}, xx=True, ch=True) == 1
        return pid

    def log(self, name: str) -> str:
        return (self.data / "logs" / f"{name}.log").read_text()

    def kill_everything(self) -> None:
        for pid in [self.process.pid] if self.process and self.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        ends = time.monotonic() + 20
        while left := processes_of(self.data):
            if time.monotonic() > ends:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
            for pid, line in left.items():
                if "valkey-server" in line:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        if self.process:
            self.process.communicate()


def drawn(client: httpx2.Client, parameters: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The job of a request once it is over, however long that takes: `Prefer: wait` ends after a minute."""
    return ended(client, client.post("/v1/jobs", json=parameters, headers=headers).raise_for_status().json(), **headers)


def ended(client: httpx2.Client, job: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The job once it is over."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": 10}, headers=headers)
        seen: dict[str, Any] = answer.raise_for_status().json()
        return seen if seen["ended_at"] else None

    return until(look)  # type: ignore[return-value]


@pytest.fixture
def closed_installation(tmp_path: Path, shared_machine: dict[str, str]) -> Iterator[Installation]:
    """Not started yet."""
    installation = Installation(tmp_path / "data", environment=dict(shared_machine))
    yield installation
    installation.kill_everything()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Installation]:
    """Ready, and shared by the tests of a file."""
    installation = Installation(tmp_path_factory.mktemp("installation") / "data", environment=dict(shared_machine))
    installation.start_and_wait()
    yield installation
    installation.kill_everything()
