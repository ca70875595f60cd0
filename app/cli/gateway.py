"""`darkroom gateway`: the application behind uvicorn, on a socket that is ours before anything else starts."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.contract.environment import SettingsError
from app.contract.exits import CANNOT_START
from app.contract.logs import configure
from app.main import create_app
from app.pictures import open_pictures
from app.settings import Settings, settings_from_env
from app.slow_heads import ImpatientProtocol
from app.storage import PictureStoreError

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
        listener = listen(settings)
        open_pictures(settings)
    except (SettingsError, CannotStart, PictureStoreError, ValueError, OSError) as error:
        print(f"darkroom gateway: {error}", file=sys.stderr)
        return CANNOT_START
    server = Server(create_app(settings))
    log.info("listening", host=settings.host, port=listener.getsockname()[1])
    server.run(sockets=[listener])
    return 0 if server.started else server.why_not()


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises CannotStart if the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        remedy = "stop what listens there, or choose another with --port or DARKROOM_PORT"
        raise CannotStart(f"{where} cannot be used ({error.strerror}); {remedy}") from error
    return listener


class Server(uvicorn.Server):
    """Tells the application about a signal at once, so that streams end and waits are answered before the grace."""

    def __init__(self, application: FastAPI) -> None:
        self.application = application
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http=ImpatientProtocol,
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
        super().handle_exit(sig, frame)

    def why_not(self) -> int:
        """The lifespan failed; uvicorn has logged the traceback, this is the sentence."""
        print("darkroom gateway: the application did not start; the log says why", file=sys.stderr)
        return 1
