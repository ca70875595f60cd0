"""deploy/redis/users.acl: what the scripts and processes need, and no more. tests/system/test_separate.py plays the
whole road with it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio as aioredis

from app.cli.embedded import find_binary
from app.contract.redis import keys
from app.contract.redis.model_demand import ModelDemand
from app.contract.redis.models import Models
from app.contract.redis.queue_stats import QueueStats
from app.contract.redis.scripts import OF_ALL
from app.contract.redis.server import RedisServer
from benchmarks.ports import free_port
from tests.deploy.redis_users import OF_OTHERS, USERS, users_file
from tests.system.deployment import ROOT
from tests.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.anyio

SCRIPTS = ROOT / "app" / "contract" / "redis" / "scripts"
FILE = ROOT / "deploy" / "redis" / "users.acl"


def test_the_file_is_what_the_scripts_need() -> None:
    """After a change of a script or a key: python -m tests.deploy.redis_users > deploy/redis/users.acl"""
    assert FILE.read_text() == users_file()


def test_every_script_has_a_user() -> None:
    """Or the lists of the users are short, and file and lists agree all the same."""
    of_all = {*OF_ALL, "outbox"}
    of_the_operator = {"forget_model", "key_create", "key_revoke"}
    there = {path.stem for path in SCRIPTS.glob("*.lua")}
    assert {script for user in USERS.values() for script in user.scripts} == there - of_all - of_the_operator


def test_no_password_of_the_file_is_a_password() -> None:
    """What stands there is refused in a URL by every process (app/contract/common/environment.py)."""
    assert re.findall(r">(\S+)", FILE.read_text()) == [f"REPLACE-ME-{name}" for name in (*USERS, *OF_OTHERS)]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder: Path = tmp_path_factory.mktemp("users")
    (folder / "users.acl").write_text(re.sub(r">REPLACE-ME-\w+", ">secret", FILE.read_text()))
    port = free_port()
    places = {"port": port, "bind": "127.0.0.1", "dir": folder, "aclfile": folder / "users.acl", "save": ""}
    arguments = [str(part) for name, value in places.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([find_binary(), *arguments], stdout=subprocess.DEVNULL)
    until(lambda: process.poll() is None and _listens(port))
    yield port
    process.terminate()
    process.wait(WAIT_SECONDS)


def _listens(port: int) -> bool:
    try:
        with redis.Redis(port=port, username="operator", password="secret") as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


SECRETS = (keys.API_KEYS, keys.API_KEYS_VERSION, keys.STREAM_TOKEN + "x", keys.WEBHOOK_SECRET + "x")


@pytest.mark.parametrize(
    ("user", "command", "may"),
    [
        ("gateway", ["GET", keys.API_KEYS_VERSION], True),
        ("gateway", ["HSET", keys.API_KEYS, "drk", "{}"], False),
        ("gateway", ["SET", keys.API_KEYS_VERSION, "open:"], False),
        ("gateway", ["SET", keys.STREAM_TOKEN + "x", "1"], True),
        *(("worker", ["GET", name], False) for name in SECRETS),
        ("worker", ["GET", keys.LIMITS + "x"], False),
        ("worker", ["HSET", keys.JOB + "x", "status", "running"], True),
        ("worker", ["HSETNX", keys.JOB + "x", "started_ms", "1"], True),
        ("webhooks", ["HGETALL", keys.API_KEYS], False),
        ("webhooks", ["GET", keys.STREAM_TOKEN + "x"], False),
        ("webhooks", ["HGET", keys.WEBHOOK_SECRET + "x", "current"], True),
        ("webhooks", ["HGETALL", keys.JOB + "x"], True),
        ("webhooks", ["HSET", keys.JOB + "x", "status", "canceled"], False),
        ("webhooks", ["ZRANK", keys.QUEUED + "m", "x"], True),
        ("webhooks", ["ZREM", keys.QUEUED + "m", "x"], False),
        ("webhooks", ["ZADD", keys.LEASES, "1", "x"], False),
        ("operator", ["HSET", keys.API_KEYS, "drk", "{}"], True),
        ("replica", ["GET", keys.EPOCH], False),
        ("sentinel", ["GET", keys.EPOCH], False),
        *((user, command, False) for user in (*USERS, "operator") for command in (
            ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["GET", "other"], ["SHUTDOWN"], ["ACL", "LIST"],
            ["SCRIPT", "FLUSH"], ["BGREWRITEAOF"], ["REPLICAOF", "NO", "ONE"], ["MONITOR"],
        )),
    ],
)  # fmt: skip
def test_who_may_what(port: int, user: str, command: list[str], may: bool) -> None:
    with redis.Redis(port=port, username=user, password="secret") as client:
        if may:
            client.execute_command(*command)
        else:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


async def test_the_gateway_reads_and_names_models_and_counts_deadlines(port: int) -> None:
    async with aioredis.Redis(port=port, username="gateway", password="secret", decode_responses=True) as client:
        await Models(client).set_alias("short", "long")
        await Models(client).aliases()
        await QueueStats(client).deadlines("m")
        await RedisServer(client).try_a_write()


async def test_the_webhooks_read_models(port: int) -> None:
    async with aioredis.Redis(port=port, username="webhooks", password="secret", decode_responses=True) as client:
        await Models(client).all()
        await Models(client).aliases()


def test_a_worker_of_several_folders_learns_what_waits(port: int) -> None:
    with redis.Redis(port=port, username="worker", password="secret", decode_responses=True) as client:
        demand = ModelDemand(client)
        demand.look(["m"])
        demand.take_up("m", "w", seen=0)
        demand.taken_up("m", "w")


def test_a_script_may_do_what_its_user_may(port: int) -> None:
    """Or the lists of commands would mean nothing: each process may run scripts."""
    steal: Any = "return redis.call('HGETALL', ARGV[1])"
    refused = pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission")
    with redis.Redis(port=port, username="worker", password="secret") as client, refused:
        client.eval(steal, 0, keys.API_KEYS)


def test_nobody_comes_in_without_a_name(port: int) -> None:
    with redis.Redis(port=port) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()
