"""The primary dies, the sentinels promote its replica: what had arrived there is finished, what had not is named.

Gateway, webhooks and worker are processes of the service that know nothing but where the sentinels are.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
import redis

from app.contract.redis import clients
from tests.faults.conftest import PARAMETERS
from tests.faults.fork_server import LEASE
from tests.faults.installation import ForkServer, Service
from tests.faults.scripted import HOLD
from tests.faults.sentinels import Replicated
from tests.system.separate import Listener, listener
from tests.waiting import PLAIN, WAIT_SECONDS, until

KEY, OTHER_KEY = "k" * 32, "o" * 32
ARRIVED, LOST = 6, 3


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    replicated = Replicated(tmp_path_factory.mktemp("sentinels"))
    yield replicated
    replicated.end()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Listener]:
    with listener() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def service(
    fork_server: ForkServer, replicated: Replicated, receiver: Listener, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    environment = {
        "DARKROOM_REDIS_URL": replicated.url,
        "DARKROOM_API_KEYS": f"ann:{KEY},bob:{OTHER_KEY}",
        "DARKROOM_WEBHOOK_PORTS": str(receiver.server.server_port),
        # Nobody is taken for dead because the machine stood still; a claim that got lost is made again after it.
        LEASE: "30000",
    }
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, fork_server, replicated, workers=1, environment=environment)
    for name in ("gateway", "webhooks", "worker0"):
        service.bear(name)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx2.Client]:
    bearer = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=service.url, timeout=WAIT_SECONDS, **PLAIN, headers=bearer) as client:
        until(lambda: _status(client, "/readyz") == 200)
        yield client


def _status(client: httpx2.Client, path: str) -> int:
    with suppress(httpx2.TransportError):
        return client.get(path).status_code
    return 0


def _known(client: httpx2.Client, job_id: str, **headers: str) -> dict[str, Any]:
    """What is said of a job once Redis is there: the job when it is over, or the problem."""

    def look() -> dict[str, Any] | None:
        answer = client.get(f"/v1/jobs/{job_id}", headers=headers)
        told: dict[str, Any] = answer.json()
        return told if answer.status_code == 404 or told.get("ended_at") else None

    return until(look)  # type: ignore[return-value]


class Traffic(threading.Thread):
    """Sends jobs one after the other, those that are refused as well, until it is told to end."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._over = threading.Event()
        self.accepted: list[str] = []
        self.refused: set[int] = set()

    def run(self) -> None:
        bearer = {"Authorization": f"Bearer {KEY}"}
        with httpx2.Client(base_url=self._url, timeout=WAIT_SECONDS, **PLAIN, headers=bearer) as client:
            while not self._over.wait(0.1):
                answer = client.post("/v1/jobs", json=PARAMETERS)
                if answer.status_code == 202:
                    self.accepted.append(answer.json()["id"])
                else:
                    self.refused.add(answer.status_code)

    def ends(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.timeout(600)
def test_what_arrived_is_finished_and_what_was_lost_is_named(
    replicated: Replicated, service: Service, receiver: Listener, client: httpx2.Client
) -> None:
    hook = {"url": f"{receiver.url}/hook", "events": ["job.succeeded"]}
    hold = service.folder / HOLD
    hold.touch()
    arrived = [client.post("/v1/jobs", json=PARAMETERS | {"webhook": hook}).json()["id"] for _ in range(ARRIVED)]
    until(lambda: client.get(f"/v1/jobs/{arrived[0]}").json()["status"] == "running")
    replicated.cut_off()
    sent = [client.post("/v1/jobs", json=PARAMETERS, headers={"Idempotency-Key": f"k{n}"}) for n in range(LOST)]
    lost = [answer.json()["id"] for answer in sent]
    assert {answer.status_code for answer in sent} == {202}
    traffic = Traffic(service.url)
    traffic.start()
    until(lambda: traffic.accepted)
    replicated.is_killed()
    before = len(traffic.accepted)
    until(replicated.is_promoted)
    hold.unlink()
    until(lambda: len(traffic.accepted) > before + 3)
    traffic.ends()

    assert traffic.refused == {503}, "while nobody is primary"
    assert {_known(client, each)["status"] for each in arrived} == {"succeeded"}
    for each in lost:
        told = until(lambda each=each: (seen := _known(client, each))["type"] != "/problems/job-not-found" and seen)
        assert (told["status"], told["type"]) == (404, "/problems/job-lost")
        theirs = _known(client, each, Authorization=f"Bearer {OTHER_KEY}")
        assert theirs["type"] == "/problems/job-not-found", "that it was there is nobody else's business"
    fates = [_known(client, each) for each in traffic.accepted]
    assert {fate.get("type", fate["status"]) for fate in fates} == {"succeeded", "/problems/job-lost"}

    named = [each["id"] for each in fates if "type" not in each]
    assert not {*named} & {*lost}
    count = len(lost) + len(fates) - len(named)
    text = client.get("/metrics").text
    assert f'darkroom_jobs_lost_total{{process="0"}} {count}.0' in text
    said = [json.loads(line) for line in (service.folder / "gateway.log").read_text().splitlines() if "job_ids" in line]
    assert {*lost} <= {job_id for line in said for job_id in line["job_ids"]}

    again = client.post("/v1/jobs", json=PARAMETERS, headers={"Idempotency-Key": "k0"}).json()
    assert _known(client, again["id"])["status"] == "succeeded", "sent again, it is drawn"
    until(lambda: {json.loads(body)["data"]["id"] for _, body in receiver.came["/hook"]} == {*arrived})


def test_a_client_finds_the_primary_by_any_sentinel_that_answers(replicated: Replicated) -> None:
    place, _, rest = replicated.url.partition("127.0.0.1")
    with clients.client(f"{place}127.0.0.1:1,127.0.0.1{rest}", decode_responses=True) as client:
        assert client.info("replication")["role"] == "master"
    elsewhere = replicated.url.replace("/pictures", "/others")
    said = r"of the sentinels 127\.0\.0\.1:\d+.* none that answers knows a primary 'others' that is up"
    with clients.client(elsewhere) as client, pytest.raises(redis.ConnectionError, match=said) as told:
        client.ping()
    assert "<" not in str(told.value), "no objects of the library"

    async def ask() -> None:
        async with clients.async_client(elsewhere) as client:
            await client.ping()

    with pytest.raises(redis.ConnectionError, match=said):
        asyncio.run(ask())
