"""A worker process with a folder of model folders: each draws as if it were the only one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import anyio
import numpy as np
import pytest
import redis
import redis.asyncio
from PIL import Image

from app.contract.messages.job import Record, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis.store import JobStore, NewJob
from tests.engine.tiny_models import save_tiny_model
from tests.system.conftest import COMMAND
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.anyio
LIMITS = {"queue_limit": 100, "tenant_limit": 100}
NAMES = ("tiny-a", "tiny-b")
T = TypeVar("T")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "models"
    for name, prediction_type in zip(NAMES, ("epsilon", "v_prediction"), strict=True):
        save_tiny_model(folder / name, prediction_type=prediction_type)
    (folder / "broken").mkdir()
    (folder / "broken" / "model_index.json").write_text("{}")
    return folder


@contextmanager
def worker(environment: dict[str, str], *options: object) -> Iterator[subprocess.Popen[str]]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    process = subprocess.Popen(
        [COMMAND, "worker", *map(str, options)],
        env=bare | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.said = process.communicate(timeout=WAIT_SECONDS)[0]  # type: ignore[attr-defined]
        finally:
            process.kill()


async def drawn(store: JobStore, pictures: Path, names: Sequence[str]) -> list[np.ndarray]:
    """A picture of each of these models: all are asked for at once."""
    cards = {name: served.card for name, served in (await store.models.all()).items()}
    jobs = []
    for number, name in enumerate(names):
        asked = JobRequest(prompt="a red circle", seed=number, num_inference_steps=4, scheduler="ddim", model=name)
        job = NewJob(new_job_id(), "ann", resolve(asked, cards[name]), retention_ms=600_000, metadata={})
        assert (await store.submit(job, **LIMITS)).outcome == "created"
        jobs.append(job.id)
    found = []
    for job_id in jobs:
        record = await over(store, job_id)
        assert record.status == "succeeded", record.error
        file = BytesIO((pictures / record.images[0].key).read_bytes())
        found.append(np.asarray(Image.open(file)))
    return found


async def eventually(look: Callable[[], Awaitable[T | None]]) -> T:
    """What `look` returns once there is something."""
    with anyio.fail_after(3 * WAIT_SECONDS):
        while not (found := await look()):  # noqa: ASYNC110
            await anyio.sleep(0.05)
    return found


async def over(store: JobStore, job_id: str) -> Record:
    async def look() -> Record | None:
        record = await store.get(job_id, "ann")
        return record if record is not None and record.ended_ms else None

    return await eventually(look)


async def announced(store: JobStore) -> None:
    async def look() -> bool:
        models = await store.models.all()
        return all(name in models and models[name].workers for name in NAMES)

    await eventually(look)


@pytest.mark.timeout(900)  # Three starts, on machines that do much else.
async def test_each_draws_as_if_it_were_the_only_one(
    models: Path, valkey_url: str, redis_client: redis.Redis, shared_machine: dict[str, str], tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    environment = shared_machine | {
        "REDIS_URL": valkey_url,
        "DARKROOM_STORAGE_URL": pictures.as_uri(),
        "DARKROOM_SCORER": "off",
        "DARKROOM_HOLD_SECONDS": "0",
    }
    asked = [*NAMES, *NAMES]
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        store = JobStore(client)
        with worker(environment, "--models", models) as several:
            await announced(store)
            together = await drawn(store, pictures, asked)
            served = await store.models.all()
            assert sum(served[name].in_memory for name in NAMES) <= 1
        assert several.returncode == 0, several.said  # type: ignore[attr-defined]
        assert "a folder is not served" in several.said  # type: ignore[attr-defined]
        left = await store.models.all()
        assert [left[name].workers for name in NAMES] == [0, 0]
        alone = [environment | {"DARKROOM_MODEL": str(models / name)} for name in NAMES]
        with worker(alone[0]), worker(alone[1]):
            await announced(store)
            apart = await drawn(store, pictures, asked)
    assert not np.array_equal(together[0], together[1])
    for mine, theirs in zip(together, apart, strict=True):
        np.testing.assert_array_equal(mine, theirs)
