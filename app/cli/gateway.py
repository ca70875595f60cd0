"""`darkroom gateway`: the application behind uvicorn, on a socket that is ours before anything else starts."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.cli.gateway_workers import GatewayWorkers, processes_by_default
from app.cli.listening import CannotListen, bound_to
from app.cli.own_memory import close_memory
from app.contract.common.environment import SettingsError
from app.contract.common.exits import CANNOT_START
from app.contract.common.logs import configure
from app.contract.redis import clients
from app.edge.http_protocol import LimitedProtocol
from app.edge.metrics import GatewayMetrics
from app.jobs.pictures import open_pictures
from app.main import create_app
from app.pictures.errors import PictureStoreError
from app.pictures.links import SHORTEST_KEY
from app.settings import Settings, settings_from_env

log = structlog.get_logger()

GRACE_SECONDS = 8
"""Streams and waits end as soon as the signal comes; this is for a slow download."""

BACKLOG = 2_048


class CannotStart(Exception):
    """A reason that no restart mends. One sentence, with the remedy."""


def run() -> int:
    """Answer until SIGTERM or SIGINT. Returns the exit code."""
    try:
        settings = settings_from_env()
        configure(settings.log_level, process="gateway")
        close_memory()
        listener = listen(settings)
        open_pictures(settings)
        if fault := clients.why_refused(settings.redis_url.get_secret_value()):
            raise CannotStart(fault)
        metrics = GatewayMetrics(process=0)
        if settings.metrics_port is not None:
            _serve_metrics(metrics, settings)
    except (SettingsError, CannotStart, CannotListen, PictureStoreError, ValueError, OSError) as error:
        print(f"darkroom gateway: {error}", file=sys.stderr)
        return CANNOT_START
    settings = _with_one_key(settings)
    further = (settings.gateway_processes or processes_by_default()) - 1
    workers = GatewayWorkers(further, listener, environment=dict(os.environ))
    workers.start()
    try:
        return _answer(settings, listener, metrics, on_exit=workers.ask_to_end)
    finally:
        workers.stop(seconds=GRACE_SECONDS + 2)


def run_gateway_worker(number: int, listener: int) -> int:
    """Answer on a socket that another gateway opened, until it tells this process to stop, or is gone."""
    settings = settings_from_env()
    configure(settings.log_level, process="gateway")
    close_memory()
    return _answer(settings, socket.socket(fileno=listener), GatewayMetrics(process=number))


def _answer(
    settings: Settings, listener: socket.socket, metrics: GatewayMetrics, *, on_exit: Callable[[], None] | None = None
) -> int:
    server = Server(create_app(settings, metrics=metrics), on_exit=on_exit)
    # What is there now stays until the end. Looking through all of it again and again would stop everybody for 25 ms.
    gc.collect()
    gc.freeze()
    log.info("listening", host=settings.host, port=listener.getsockname()[1])
    server.run(sockets=[listener])
    return 0 if server.started else server.why_not()


def _serve_metrics(metrics: GatewayMetrics, settings: Settings) -> None:
    where = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        metrics.serve(settings.metrics_host, settings.metrics_port or 0)
    except OSError as error:
        remedy = "choose another with DARKROOM_METRICS_PORT"
        raise CannotStart(f"{where} cannot be used ({error.strerror}); {remedy}") from error


def _with_one_key(settings: Settings) -> Settings:
    """Picture links of one process must work at the others, also where the operator gave no key."""
    if settings.signing_key is not None:
        return settings
    os.environ["DARKROOM_SIGNING_KEY"] = secrets.token_hex(SHORTEST_KEY)
    return settings_from_env()


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises CannotListen if the address is taken or not ours, CannotStart if open to all."""
    if reason := settings.why_not_listen():
        raise CannotStart(reason)
    listener = bound_to(settings.host, settings.port)
    listener.listen(BACKLOG)
    return listener


class Server(uvicorn.Server):
    """Tells the application about a signal at once, so that streams end and waits are answered before the grace."""

    def __init__(self, application: FastAPI, *, on_exit: Callable[[], None] | None = None) -> None:
        self.application = application
        self._on_exit = on_exit
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http=LimitedProtocol,
            ws="none",
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=65,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway = getattr(self.application.state, "gateway", None)
        if gateway is not None:
            # A signal may land between two callbacks; only this call wakes the loop.
            asyncio.get_running_loop().call_soon_threadsafe(gateway.closing.set)
        if self._on_exit is not None:
            self._on_exit()
        # Not uvicorn's own: it would raise the signal again at the end, and nobody could wait for the gateway workers.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def why_not(self) -> int:
        """The lifespan failed; uvicorn has logged the traceback, this is the sentence."""
        print("darkroom gateway: the application did not start; the log says why", file=sys.stderr)
        return 1
