"""A whole service for a nemesis: a Valkey of its own and processes from the fork server, restarted when they die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.embedded import find_binary
from benchmarks.ports import free_port
from tests.waiting import WAIT_SECONDS, until


class Valkey:
    """A durable server that may be killed, and comes back on the same port with the same files."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        folder.mkdir()
        self.port = free_port()
        self.folder = folder
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, *, seconds: float = WAIT_SECONDS) -> redis.Redis:
        options = {"decode_responses": True, "socket_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis(port=self.port, **options)  # type: ignore[arg-type]

    def comes(self) -> None:
        append = "yes" if self._durable else "no"
        options = {"port": self.port, "dir": self.folder, "appendonly": append, "save": "", "loglevel": "warning"}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([find_binary(), *arguments], stdout=subprocess.DEVNULL)
        until(self._answers)

    def is_killed(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        with suppress(redis.RedisError), self.client(seconds=2) as client:
            return bool(client.ping())
        return False


class ForkServer:
    """The process that forks all others."""

    def __init__(self) -> None:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM", "REDIS"))}
        command = [sys.executable, "-W", "ignore", "-m", "tests.faults.fork_server"]
        self._process = subprocess.Popen(
            command,
            env=clean | single,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the fork server did not start; its stderr says why")

    def bear(self, kind: str, environment: dict[str, str], log: Path) -> int:
        """The pid of a new process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"kind": kind, "env": environment, "log": str(log)}) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def close(self) -> None:
        """It and all that it bore, the sleeping ones too."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Service:
    """Gateway, webhooks and some workers. `fate` is each worker's chance to die at a stage."""

    def __init__(
        self,
        folder: Path,
        fork_server: ForkServer,
        valkey: Valkey,
        *,
        workers: int = 3,
        fate: dict[str, float] | None = None,
        seed: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.pictures = folder / "pictures"
        self.diary = folder / "diary.jsonl"
        self.port = free_port()
        self.pids: dict[str, int] = {}
        self.births = 0
        self._fork_server = fork_server
        self._over = threading.Event()
        self._names = ["gateway", "webhooks", *(f"worker{n}" for n in range(workers))]
        self._environment = {
            "DARKROOM_REDIS_URL": valkey.url,
            "DARKROOM_STORAGE_URL": self.pictures.as_uri(),
            "DARKROOM_TEST_DIARY": str(self.diary),
            "DARKROOM_TEST_FATE": json.dumps(fate or {}),
            "DARKROOM_TEST_SEED": str(seed),
            "DARKROOM_GRACE_SECONDS": "1",
        } | (environment or {})
        self._gateway_environment = {
            "DARKROOM_PORT": str(self.port),
            "DARKROOM_STORAGE_RESERVE_BYTES": "0",
            "DARKROOM_SIGNING_KEY": "s" * 32,
            "DARKROOM_WEBHOOK_ALLOW_HTTP": "true",
            "DARKROOM_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
        }
        self._supervisor = threading.Thread(target=self._raise_the_dead, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[int]:
        return [pid for name, pid in self.pids.items() if name.startswith("worker")]

    def start(self) -> None:
        for name in self._names:
            self.bear(name)
        self._supervisor.start()

    def bear(self, name: str, **more: str) -> int:
        """Start one process without anybody who would start it again. `more` is its own environment."""
        kind = name.rstrip("0123456789")
        environment = self._environment | (self._gateway_environment if kind != "worker" else {}) | more
        self.births += 1
        self.pids[name] = self._fork_server.bear(kind, environment, self.folder / f"{name}.log")
        return self.pids[name]

    def signal(self, name: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pids[name], number)

    def stop_one(self, name: str) -> None:
        """As a supervisor would: SIGTERM."""
        self.signal(name, signal.SIGTERM)

    def stop(self) -> None:
        self._over.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for name in self.pids:
            self.signal(name, signal.SIGCONT)
            self.signal(name, signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in self.pids.values()))

    def _raise_the_dead(self) -> None:
        while not self._over.wait(0.05):
            for name in self._names:
                if not is_alive(self.pids[name]):
                    self.bear(name)
