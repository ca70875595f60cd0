"""Bears processes in milliseconds: everything heavy is imported once, here, and each process is a fork of this one.

Reads JSON lines ({"kind": ..., "env": {...}, "log": path}) from stdin and answers with the pid. Ends with its stdin,
and takes its children along. The clock of the service runs faster in here, so that a lease is over in a second, unless
it is to keep real time.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable

import uvicorn

import app.webhooks.main as webhooks
import worker.connections
import worker.leases
from app import main, wiring
from app.contract.common.logs import configure
from app.contract.redis import keys
from app.jobs import inputs
from app.settings import settings_from_env
from app.webhooks import schedule
from tests.faults import mutants, scripted

MUTANT = "DARKROOM_TEST_MUTANT"
"""Environment variable of a process with one of the mistakes of mutants.py in it."""

ORPHAN = "DARKROOM_TEST_ORPHAN_MS"
"""Environment variable: how long nobody's objects are kept; or REAL_TIME, and its process is in no hurry at all."""

REAL_TIME = "real-time"
ORPHAN_MS = 1_600

LEASE = "DARKROOM_TEST_LEASE_MS"
"""Environment variable of a process that has another lease than all."""

REDIS_SECONDS = "DARKROOM_TEST_REDIS_SECONDS"
"""Environment variable of a gateway that waits for Redis for longer than users' do."""

A_DAY_MS = 86_400_000
"""What a rate limit calls a minute in here: a run's charges stay in one counter, for the checker."""

LEASE_MS = 1_500
"""A twentieth of the real one; everything that belongs to it is shortened alike."""


def hurry(orphan_ms: int) -> None:
    keys.LEASE_MS = LEASE_MS
    keys.REAP_SECONDS = 0.3
    keys.DELIVERY_LEASE_MS = 1_000
    keys.ORPHAN_MS = orphan_ms
    inputs.STORE_SECONDS = orphan_ms / 2_000
    worker.connections.LEASE_SECONDS = 0.5
    worker.leases.BEAT_SECONDS = 0.4
    worker.leases.AGAIN_SECONDS = 0.1
    webhooks.BEAT_SECONDS = 0.3
    webhooks.LEASE_SECONDS = 0.25


def gateway() -> int:
    settings = settings_from_env()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(128)
    config = uvicorn.Config(main.create_app(settings), log_config=None, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


KINDS: dict[str, Callable[[], int]] = {
    "gateway": gateway,
    "worker": scripted.run,
    "webhooks": lambda: webhooks.run(settings_from_env()),
    "nobody": lambda: 0,
}
"""Nobody is made ready as all are, and goes."""


def bear(kind: str, environment: dict[str, str], log: str) -> int:
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        os.environ.update(environment)
        if (orphan_ms := environment.get(ORPHAN, ORPHAN_MS)) != REAL_TIME:
            hurry(int(orphan_ms))
        if LEASE in environment:
            keys.LEASE_MS = keys.DELIVERY_LEASE_MS = int(environment[LEASE])
        if REDIS_SECONDS in environment:
            wiring.COMMAND_SECONDS = wiring.CONNECT_SECONDS = float(environment[REDIS_SECONDS])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
        os.dup2(1, 2)
        configure("info", process=kind)
        mutants.apply(environment.get(MUTANT, "none"))
        code = KINDS[kind]()
    except BaseException:
        # `os._exit` would say nothing of it.
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # A child whose collector looked through what was imported would copy all of it.
    gc.freeze()
    # Three days of tries are too long in any case.
    schedule.DELAYS = tuple(0.2 for _ in schedule.DELAYS)  # type: ignore[assignment]
    keys.LIMIT_WINDOW_MS = A_DAY_MS
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(bear(order["kind"], order["env"], order["log"]), flush=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    run()
