"""Real processes from a fork server, a Valkey that may be killed, and workers whose death is a matter of the script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from app.contract.messages.events import TERMINAL
from app.contract.objects.names import CELL_MARK, CELL_WORD
from app.contract.redis import keys
from tests.faults.fork_server import LEASE, REDIS_SECONDS
from tests.faults.installation import ForkServer, Service, Valkey, is_alive
from tests.faults.scripted import HOLD
from tests.waiting import PLAIN, WAIT_SECONDS, until

PARAMETERS = {"prompt": "a circle", "seed": 1, "num_inference_steps": 4}


PATIENT = {LEASE: "3600000", REDIS_SECONDS: str(WAIT_SECONDS)}
"""Nobody is taken for dead because the machine stood still: a lease runs out where the test says so."""


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()


@dataclass
class Scene:
    """A gateway, no workers yet, and what a test does to them."""

    service: Service
    valkey: Valkey
    client: httpx2.Client
    redis: redis.Redis

    def worker(self, name: str = "worker0", *, dies: str | None = None, step: float = 0.01) -> int:
        """Bear one. `dies` is the stage at which it certainly does."""
        fate = json.dumps({dies: 1.0} if dies else {})
        return self.service.bear(name, DARKROOM_TEST_FATE=fate, DARKROOM_TEST_STEP=str(step))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Every job that is begun meanwhile stands still at its second step, however fast its worker is."""
        hold = self.service.folder / HOLD
        hold.touch()
        yield
        hold.unlink()

    def send(self, **options: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/jobs", json=PARAMETERS | options)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, as soon as the gateway can say; Redis may be busy coming back."""
        answer = until(lambda: (told := self.client.get(f"/v1/jobs/{job['id']}")).status_code != 503 and told)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(until(lambda: (seen := self.look(job))["status"] in TERMINAL and seen))

    def status(self, job: dict[str, Any], wanted: str) -> None:
        until(lambda: self.look(job)["status"] == wanted)

    def lease_runs_out(self, job: dict[str, Any]) -> None:
        """Of a worker that is dead or asleep: it is not extended any more."""
        assert self.redis.zadd(keys.LEASES, {job["id"]: 0}, xx=True, ch=True) == 1

    def gone(self, pid: int) -> None:
        until(lambda: not is_alive(pid))

    def events(self, job: dict[str, Any]) -> list[str]:
        entries: Any = self.redis.xrange(keys.EVENTS + job["id"])
        return [fields["event"] for _, fields in entries if fields["event"] != "job.progress"]

    def stored(self) -> list[str]:
        return sorted(str(file.relative_to(self.service.pictures)) for file in self._files())

    def only_the_winner_is_left(self, job: dict[str, Any]) -> None:
        """Once the orphans are gone, what is stored is what the record points to."""
        record: Any = self.redis.hget(keys.JOB + job["id"], "images")
        wanted = sorted(image["key"] for image in json.loads(record))
        until(lambda: self.stored() == wanted and not self.redis.zcard(keys.ORPHANS))

    def _files(self) -> list[Path]:
        return [
            file
            for file in self.service.pictures.rglob("*")
            if file.is_file() and file.name not in (CELL_MARK, CELL_WORD)
        ]


@pytest.fixture
def make_scene(fork_server: ForkServer, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(**environment: str) -> Scene:
        valkey = Valkey(tmp_path / "redis")
        valkey.comes()
        service = Service(tmp_path, fork_server, valkey, environment=PATIENT | environment)
        service.bear("gateway")
        client = httpx2.Client(base_url=service.url, timeout=WAIT_SECONDS, **PLAIN)
        scenes.append(Scene(service, valkey, client, valkey.client()))
        until(lambda: _answers(client))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.service.stop()
        scene.client.close()
        scene.redis.close()
        scene.valkey.is_killed()


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    """A service that has heard of its model."""
    return announced(make_scene())


def announced(scene: Scene) -> Scene:
    """A worker comes, announces the model and leaves again."""
    pid = scene.worker("worker9")
    until(lambda: scene.client.get("/readyz").status_code == 200)
    scene.service.stop_one("worker9")
    scene.gone(pid)
    return scene


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False
