"""The command line over a real gateway: commands run in this process, a scripted worker draws as the prompts say."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
import typer.main
import typer.testing
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from app.cli.main import app
from app.contract.messages.card import ModelCard
from app.contract.redis.ownership import Beat, Claim
from tests.app.conftest import Running, ScriptedWorker, begin_anew, serve, settings_for
from tests.app.conftest import _nobody_is_late as _nobody_is_late
from tests.waiting import WAIT_SECONDS

Run = Callable[..., Result]


def picture(colour: str, *, kind: str = "png", side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


class Hand:
    """A worker in a thread. A prompt that begins with "fail" fails, one with "wait" waits for `go`, all pictures of one
    with "block" are not shown, and the first of one with "partly"."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self.go = threading.Event()
        self.claims: list[Claim] = []
        self.errors: list[BaseException] = []
        self._worker = worker
        self._over = threading.Event()
        self._waiting: list[Claim] = []
        self._thread = threading.Thread(target=self._work, name="hand", daemon=True)

    def __enter__(self) -> Hand:
        self._worker.announce()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        assert self.errors == []

    def _work(self) -> None:
        try:
            while not self._over.wait(0.005):
                claim = self._worker.ownership.claim(self._worker.card.name, "w1")
                if claim is not None:
                    self.claims.append(claim)
                    self._waiting.append(claim)
                self._waiting = [claim for claim in self._waiting if not self._end(claim)]
        except Exception as error:
            self.errors.append(error)

    def _end(self, claim: Claim) -> bool:
        if self._worker.ownership.beat([claim]) == [Beat.CANCEL]:
            return self._worker.ownership.canceled(claim)
        self._worker.ownership.progress(claim, 3, claim.spec.num_inference_steps)
        if claim.spec.prompt.startswith("wait") and not self.go.is_set():
            return False
        if claim.spec.prompt.startswith("fail"):
            self._worker.fail(claim)
        elif claim.spec.prompt.startswith("block"):
            self._worker.block(claim)
        elif claim.spec.prompt.startswith("partly"):
            self._worker.succeed(claim, data=picture("red"), blocked=[0], warnings=("Not shown: picture 0.",))
        else:
            self._worker.succeed(claim, data=picture("red", kind=claim.spec.output_format))
        return True


@pytest.fixture(scope="session", autouse=True)
def _commands_are_put_together_once() -> Iterator[None]:
    """Not for each of a thousand that are run: that takes as long as most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module", autouse=True)
def _a_silent_gateway() -> Iterator[None]:
    """It logs to the stdout that a command's results are read from: both run in this process."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def served(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(settings_for(valkey_url, tmp_path_factory.mktemp("gateway")))


@pytest.fixture
def gateway(served: Running, redis_client: redis.Redis) -> Running:
    """Over an emptied Valkey."""
    begin_anew(served)
    return served


@pytest.fixture
def worker(gateway: Running, redis_client: redis.Redis, card: ModelCard) -> ScriptedWorker:
    worker = ScriptedWorker(redis_client, card, gateway.app.state.settings)
    worker.announce()
    return worker


@pytest.fixture
def hand(worker: ScriptedWorker) -> Iterator[Hand]:
    with Hand(worker) as hand:
        yield hand


def environment_of(gateway: Running) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    redis_url = gateway.app.state.settings.redis_url.get_secret_value()
    return inherited | {"DARKROOM_URL": gateway.url, "REDIS_URL": redis_url, "COLUMNS": "160"}


@contextlib.contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """What is begun meanwhile hears Ctrl-C, also where the tests themselves were begun in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


PATIENT = f"""
import sys
from app.cli import calling_off, start

calling_off.CANCEL_SECONDS = {WAIT_SECONDS}
sys.argv[0] = "darkroom"
sys.exit(start.main())
"""
"""`darkroom`, but whether the service hears of a Ctrl-C in five seconds is a matter of the machine."""


@contextlib.contextmanager
def begun(gateway: Running, *arguments: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """`darkroom` as a process that hears Ctrl-C."""
    with hearing_ctrl_c():
        process = subprocess.Popen(
            [sys.executable, "-c", PATIENT, *arguments],
            env=environment_of(gateway),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder against the gateway. No command may end in a traceback."""

    def run(*arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, arguments, env=environment_of(gateway), **options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    monkeypatch.chdir(tmp_path)
    return run


@contextlib.contextmanager
def no_service() -> Iterator[str]:
    """The URL of a port that is bound and answers nobody."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
