"""`darkroom gateway` as processes: two on one port, kept alive, and ended together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
import redis

from app.contract.messages.card import ModelCard
from tests.app.conftest import ScriptedWorker, settings_for
from tests.waiting import PLAIN, WAIT_SECONDS, until


@dataclass(frozen=True)
class Pair:
    """The first process, and where both answer."""

    first: subprocess.Popen[bytes]
    url: str
    log: Path

    def gateway_worker(self) -> int | None:
        children = psutil.Process(self.first.pid).children()
        return children[0].pid if children else None

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", **PLAIN, timeout=WAIT_SECONDS).status_code == 200
        except httpx2.TransportError:
            return False

    def started(self) -> int:
        return self.log.read_text().count('"event": "listening"')


@pytest.fixture
def pair(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> Iterator[Pair]:
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": valkey_url.replace("valkey+unix://", "unix://"),
        "DARKROOM_STORAGE_URL": (tmp_path / "pictures").as_uri(),
        "DARKROOM_STORAGE_RESERVE_BYTES": "0",
        "DARKROOM_GATEWAY_PROCESSES": "2",
        "DARKROOM_PORT": "0",
    }
    log = tmp_path / "gateway.log"
    with log.open("wb") as sink:
        command = [str(Path(sys.executable).with_name("darkroom")), "gateway"]
        first = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    port = until(lambda: re.search(r'"port": (\d+)', log.read_text()))[1]
    pair = Pair(first, f"http://127.0.0.1:{port}", log)
    until(lambda: pair.started() == 2 and pair.answers())
    yield pair
    gateway_worker = pair.gateway_worker() if first.poll() is None else None
    first.kill()
    first.wait()
    if gateway_worker is not None:
        until(lambda: not psutil.pid_exists(gateway_worker))


def test_both_answer_and_links_of_one_work_at_the_other(
    pair: Pair, card: ModelCard, redis_client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    """Without a signing key of the operator's."""
    worker = ScriptedWorker(redis_client, card, settings_for(valkey_url, tmp_path))
    worker.announce()
    job = httpx2.post(f"{pair.url}/v1/jobs", json={"prompt": "a"}, **PLAIN, timeout=WAIT_SECONDS).json()
    worker.succeed(worker.claim())
    seen: set[str] = set()

    def ask() -> bool:
        # A connection each: the kernel gives it to one of the two.
        link = httpx2.get(f"{pair.url}/v1/jobs/{job['id']}", **PLAIN, timeout=WAIT_SECONDS).json()["images"][0]["url"]
        assert httpx2.get(link, **PLAIN, timeout=WAIT_SECONDS).status_code == 200
        metrics = httpx2.get(f"{pair.url}/metrics", **PLAIN, timeout=WAIT_SECONDS).text
        seen.update(re.findall(r'darkroom_streams\{process="(\d)"\}', metrics))
        return seen == {"0", "1"}

    until(ask)


def dumpable(*, closing: bool) -> int:
    """Whether a process of its own is dumpable, as the kernel says (prctl(2), PR_GET_DUMPABLE)."""
    script = (
        f"from app.cli.own_memory import *; {closing} and close_memory(); raise SystemExit(ctypes.CDLL(None).prctl(3))"
    )
    return subprocess.run([sys.executable, "-c", script], timeout=WAIT_SECONDS).returncode


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux'")
def test_memory_is_closed_to_processes_of_the_same_user() -> None:
    assert dumpable(closing=False) == 1
    assert dumpable(closing=True) == 0


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() == 0, reason="root reads every process, and others' on Linux"
)
def test_no_process_of_the_same_user_reads_the_keys(pair: Pair) -> None:
    for pid in (pair.first.pid, pair.gateway_worker()):
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/environ").read_bytes()


def test_a_dead_gateway_worker_is_started_again(pair: Pair) -> None:
    gateway_worker = pair.gateway_worker()
    assert gateway_worker is not None
    os.kill(gateway_worker, signal.SIGKILL)
    assert pair.answers()
    until(lambda: pair.gateway_worker() not in (None, gateway_worker))
    until(lambda: pair.started() == 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_end_when_told(pair: Pair, number: signal.Signals) -> None:
    gateway_worker = pair.gateway_worker()
    assert gateway_worker is not None
    pair.first.send_signal(number)
    assert pair.first.wait(WAIT_SECONDS) == 0
    assert not psutil.pid_exists(gateway_worker)


def test_a_gateway_worker_does_not_outlive_a_killed_gateway(pair: Pair) -> None:
    gateway_worker = pair.gateway_worker()
    assert gateway_worker is not None
    pair.first.kill()
    pair.first.wait()
    until(lambda: not psutil.pid_exists(gateway_worker))
    assert not pair.answers()
