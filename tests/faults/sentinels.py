"""A primary, its replica and three sentinels, all real: whoever is primary may be killed, and the replica takes over.

Knows servers and who of them is what. Nobody is taken for dead before `is_killed`: a machine that stands still must
not fail over by itself.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.embedded import find_binary
from benchmarks.ports import free_port
from tests.waiting import WAIT_SECONDS, until

SERVICE = "pictures"
REPLICA_USER, REPLICA_PASSWORD = "replica", "a-password-of-the-test"

NEVER_MS, SOON_MS = 3_600_000, 5_000
"""Silence after which a sentinel takes the primary for dead. A replica whose link was down for longer than ten times
that is not promoted."""


class Server:
    """One Valkey, as primary or replica, durable."""

    def __init__(self, folder: Path, **options: object) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        users = (
            f"user {REPLICA_USER} on >{REPLICA_PASSWORD} +psync +replconf +ping\nuser default on nopass ~* &* +@all\n"
        )
        (folder / "users.acl").write_text(users)
        said = {
            "port": self.port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "save": "",
            "aclfile": folder / "users.acl", "repl-diskless-sync-delay": 0,
            "masteruser": REPLICA_USER, "masterauth": REPLICA_PASSWORD, **options,
        }  # fmt: skip
        arguments = [str(part) for name, value in said.items() for part in (f"--{name}", *str(value).split("|"))]
        self.process = subprocess.Popen([find_binary(), *arguments], stdout=subprocess.DEVNULL)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def info(self) -> dict[str, Any]:
        """Empty while it does not answer."""
        with suppress(redis.RedisError), self.client() as client:
            return dict(client.info("replication"))  # type: ignore[arg-type]
        return {}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Replicated:
    """Two servers under the eyes of three sentinels."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "one")
        self.replica = Server(folder / "two", replicaof=f"127.0.0.1|{self.primary.port}")
        self._sentinels = [self._sentinel(folder / f"sentinel{number}.conf") for number in range(3)]
        until(self._is_whole)
        for _, port in self._sentinels:
            # One that stood still for two seconds does nothing for half a minute, which may be all that there is.
            with redis.Redis(port=port) as sentinel:
                sentinel.execute_command("SENTINEL DEBUG", "tilt-trigger", NEVER_MS)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for _, port in self._sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def cut_off(self) -> None:
        """Let the replica catch up, and hear nothing more from its primary, which goes on."""
        self.catch_up()
        with self.primary.client() as client:
            client.execute_command("ACL", "SETUSER", REPLICA_USER, "off")
            client.client_kill_filter(_type="replica")
        until(lambda: self.replica.info().get("master_link_status") == "down")

    def catch_up(self) -> None:
        def is_level() -> bool:
            here, there = self.primary.info(), self.replica.info()
            return bool(here) and here.get("master_repl_offset") == there.get("slave_repl_offset")

        until(is_level)

    def is_killed(self) -> None:
        """The primary dies, and the sentinels may notice."""
        self.primary.end()
        for _, port in self._sentinels:
            with redis.Redis(port=port) as sentinel:
                sentinel.sentinel_set(SERVICE, "down-after-milliseconds", SOON_MS)

    def is_promoted(self) -> bool:
        return self.replica.info().get("role") == "master"

    def end(self) -> None:
        for process, _ in self._sentinels:
            process.kill()
            process.wait()
        self.primary.end()
        self.replica.end()

    def _sentinel(self, conf: Path) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {conf.parent}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {NEVER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 10000\n"
        )
        return subprocess.Popen([find_binary(), conf, "--sentinel"], stdout=subprocess.DEVNULL), port

    def _is_whole(self) -> bool:
        for _, port in self._sentinels:
            with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=WAIT_SECONDS) as sentinel:
                seen: dict[Any, Any] = sentinel.sentinel_master(SERVICE)  # type: ignore[assignment]
                if (seen["num-other-sentinels"], seen["num-slaves"]) == (2, 1):
                    continue
            return False
        return self.replica.info().get("master_link_status") == "up"
