"""`darkroom up` honours every setting that its environment or its options give, and refuses at once what cannot be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import parse_qs

import httpx2
import pytest
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from app.cli.data_folder import PLACES, Places
from app.cli.main import app
from app.cli.own_program import as_typed
from app.cli.private import own_folder
from app.cli.up import Supervisor
from app.cli.up_settings import settings_from_env
from app.cli.welcome import welcome
from app.contract.common.environment import PREFIX, read_settings
from app.contract.common.exits import CANNOT_START
from app.contract.messages.model_name import BUNDLED_MODEL
from app.contract.objects.names import CELL_MARK
from app.settings import Settings
from worker.settings import WorkerSettings

KEY = "k" * 32
OTHER_MODEL = BUNDLED_MODEL.with_name("starter-unclip")
"""One that is there, or nothing starts."""

S = TypeVar("S", bound=BaseSettings)

FIELDS: dict[str, tuple[str, Any]] = {
    "host": ("127.0.0.2", "127.0.0.2"),
    "port": ("8123", 8123),
    "gateway_processes": ("3", 3),
    "public_url": ("https://pictures.example.org", "https://pictures.example.org"),
    "allowed_hosts": ("pictures.example.org", ("pictures.example.org",)),
    "cell": ("eu1", "eu1"),
    "cells": ("eu1=https://eu1.example.org", {"eu1": "https://eu1.example.org"}),
    "cors_origins": ("https://app.example", ("https://app.example",)),
    "api_keys": (f"ann:{KEY}", f"ann:{KEY}"),
    "require_keys": ("true", True),
    "docs": ("true", True),
    "log_level": ("debug", "debug"),
    "metrics_port": ("9001", 9001),
    "metrics_host": ("127.0.0.3", "127.0.0.3"),
    "redis_durability": ("ignore", "ignore"),
    "storage_url": ("./data/pictures", "{cwd}/data/pictures"),
    "storage_endpoint": ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    "storage_public_endpoint": ("http://127.0.0.4:9000", "http://127.0.0.4:9000"),
    "storage_region": ("eu-1", "eu-1"),
    "storage_access_key_id": ("an-id", "an-id"),
    "storage_secret_access_key": ("a-secret", "a-secret"),
    "storage_reserve_bytes": ("5", 5),
    "operator_token": ("o" * 32, "o" * 32),
    "signing_key": ("s" * 32, "s" * 32),
    "signing_keys_accepted": ("t" * 32, "t" * 32),
    "picture_url_seconds": ("77", 77),
    "default_model": ("painter", "painter"),
    "model_aliases": ("gpt-image-1=painter", {"gpt-image-1": "painter"}),
    "queue_limit": ("6", 6),
    "tenant_limit": ("7", 7),
    "tenant_input_bytes": ("70", 70),
    "retention_hours": ("8.5", 8.5),
    "body_seconds": ("9.5", 9.5),
    "stream_seconds": ("10.5", 10.5),
    "webhook_allow_http": ("true", True),
    "webhook_allow_cidrs": ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
    "webhook_ports": ("8443", (8443,)),
    "model": (str(OTHER_MODEL), OTHER_MODEL),
    "model_name": ("painter", "painter"),
    "device": ("cpu", "cpu"),
    "safety": ("flag", "flag"),
    "input_bytes": ("1000000", 1_000_000),
    "fetch_inputs": ("true", True),
    "loras": ("loras", Path("loras")),
    "embeddings": ("embeddings", Path("embeddings")),
    "controlnets": ("controlnets", Path("controlnets")),
    "controlnets_kept": ("3", 3),
    "vae": ("vae", Path("vae")),
    "prior": ("prior", Path("prior")),
    "scorer": ("scorer", Path("scorer")),
    "dtype": ("float32", "float32"),
    "seats": ("11", 11),
    "threads": ("1", 1),
    "graphs": ("off", "off"),
    "compile": ("auto", "auto"),
    "channels_last": ("on", "on"),
    "profile_folder": ("profiles", Path("profiles")),
    "hold_seconds": ("14.5", 14.5),
    "snapshot_seconds": ("15.5", 15.5),
    "snapshot_kib_per_second": ("16", 16),
    "snapshot_max_mib": ("17", 17),
    "park_seconds": ("18.5", 18.5),
    "grace_seconds": ("12.5", 12.5),
    "stall_seconds": ("13.5", 13.5),
    "worker_metrics_port": ("9002", 9002),
    "heartbeat_file": ("alive", Path("alive")),
}
"""What is written for each setting, and what the processes must make of it. Redis' URL is the real one."""

PRESENT = Settings.model_fields.keys() | WorkerSettings.model_fields.keys()


def variables() -> dict[str, str]:
    return {f"{PREFIX}{name.upper()}": text for name, (text, _) in FIELDS.items() if name in PRESENT}


def environment_of_children(*options: str, of: str = "worker", **given: str) -> dict[str, str]:
    """What `darkroom up` would start its worker with, or its gateway."""
    found: dict[str, str] = {}

    def opened(supervisor: Supervisor) -> int:
        try:
            supervisor.open()
            [worker] = supervisor.planned(settings_from_env())
            own = supervisor.own_of_gateway() if of == "gateway" else worker.environment()
            found.update(supervisor.environment | own)
        finally:
            supervisor.close()
            for descriptor in supervisor.keep:
                os.close(descriptor)
        return 0

    with nothing_given() as monkeypatch:
        monkeypatch.setattr(Supervisor, "run", opened)
        result = CliRunner().invoke(app, ["up", *options], env=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return found


@contextmanager
def nothing_given() -> Iterator[pytest.MonkeyPatch]:
    """The machine's own settings decide nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith((PREFIX, "REDIS"))]:
            monkeypatch.delenv(name)
        yield monkeypatch


@dataclass(frozen=True)
class Understood:
    """What the processes read of their environment."""

    folder: Path
    rooms: tuple[Settings, WorkerSettings]


@pytest.fixture(scope="module")
def understood(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Understood:
    """When each setting was given to `up` by its variable."""
    folder = tmp_path_factory.mktemp("up")
    with nothing_given() as monkeypatch:
        monkeypatch.chdir(folder)
        gateways, workers = (
            environment_of_children(of=process, **variables(), REDIS_URL=valkey_url)
            for process in ("gateway", "worker")
        )
        return Understood(folder, (read_in(gateways, Settings), read_in(workers, WorkerSettings)))


def read_in(environment: dict[str, str], kind: type[S]) -> S:
    with nothing_given() as monkeypatch:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return read_settings(kind)


def test_no_setting_is_forgotten_here() -> None:
    # DARKROOM_MODELS does not go with DARKROOM_MODEL, which is given here: see test_worker_plan.py.
    assert PRESENT - {"redis_url", "models"} <= FIELDS.keys()


@pytest.mark.parametrize("name", sorted(FIELDS.keys() & PRESENT))
def test_a_setting_reaches_every_process_that_has_it(understood: Understood, name: str) -> None:
    expected = FIELDS[name][1]
    if name == "storage_url":
        expected = expected.format(cwd=understood.folder.as_uri())
    for settings in understood.rooms:
        if name in type(settings).model_fields:
            value = getattr(settings, name)
            assert (value.get_secret_value() if hasattr(value, "get_secret_value") else value) == expected


def test_options_go_before_the_environment(monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"DARKROOM_PORT": "1", "DARKROOM_HOST": "127.0.0.9", "REDIS_URL": valkey_url}
    options = ("--port", "8124", "--host", "127.0.0.1", "--model", str(OTHER_MODEL))
    found = environment_of_children(*options, **given)
    assert (found["DARKROOM_PORT"], found["DARKROOM_HOST"]) == ("8124", "127.0.0.1")
    assert found["DARKROOM_MODEL"] == str(OTHER_MODEL)


def test_what_nobody_says_is_decided_by_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment_of_children("--data", "here", REDIS_URL=valkey_url)
    assert found["DARKROOM_STORAGE_URL"] == (tmp_path / "here" / "pictures").as_uri()
    assert found["DARKROOM_PROFILE_FOLDER"] == str(tmp_path / "here" / "profiles")
    assert len(found["DARKROOM_SIGNING_KEY"]) == 64
    assert "DARKROOM_OPERATOR_TOKEN" not in found, "the gateway alone is given it"
    assert len((tmp_path / "here" / "operator.token").read_text()) == 64


def test_the_gateway_alone_is_given_the_operators_token(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path
) -> None:
    """Also that of the environment."""
    monkeypatch.chdir(tmp_path)
    given = {"REDIS_URL": valkey_url, "DARKROOM_OPERATOR_TOKEN": "g" * 40}
    assert "DARKROOM_OPERATOR_TOKEN" not in environment_of_children(**given)
    assert environment_of_children(of="gateway", **given)["DARKROOM_OPERATOR_TOKEN"] == "g" * 40
    assert not (tmp_path / "data" / "operator.token").exists()


def test_a_file_with_what_no_header_takes_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "data")
    file = tmp_path / "data" / "operator.token"
    for text in ("a sentence that somebody wrote by hand, long enough", "drk_" + "x" * 40):
        file.write_text(text)
        found = environment_of_children(of="gateway", REDIS_URL=valkey_url)["DARKROOM_OPERATOR_TOKEN"]
        assert found == file.read_text() != text


def welcome_of(up: Supervisor, monkeypatch: pytest.MonkeyPatch, *, status: int) -> str:
    """What a terminal is shown once it is ready, where the gateway answers this to the operator's token."""
    asked: list[httpx2.Request] = []
    terminal = SimpleNamespace(lines=[], isatty=lambda: True, write=lambda text: terminal.lines.append(text), flush=int)
    monkeypatch.setattr("sys.stdout", terminal)
    up.url = "http://127.0.0.1:8000"
    up.client = httpx2.Client(
        transport=httpx2.MockTransport(lambda request: asked.append(request) or httpx2.Response(status, json={}))
    )
    up.say_ready()
    [request] = asked
    assert request.headers["authorization"] == f"Bearer {up.operator_token}"
    return "".join(terminal.lines)


def test_the_printed_link_holds_any_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    up = Supervisor(data=tmp_path)
    up.operator_token = "+/=&#%" + "x" * 30
    [key] = re.findall(r"/admin#(\S+)", welcome_of(up, monkeypatch, status=200))
    assert parse_qs(key, strict_parsing=True) == {"key": [up.operator_token]}


def test_where_keys_are_needed_no_dead_link_is_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They outlive a restart."""
    up = Supervisor(data=tmp_path / "a folder")
    up.operator_token = "x" * 64
    said = welcome_of(up, monkeypatch, status=401)
    assert up.operator_token not in said
    assert "with a key of the scope admin: http://127.0.0.1:8000/admin" in said
    assert f"keys create NAME --data '{tmp_path}/a folder'`" in said
    assert "curl -X POST http://127.0.0.1:8000/v1/jobs" in said
    assert '-H "authorization: Bearer $DARKROOM_API_KEY"' in said


def test_a_command_to_copy_names_a_program_that_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "my venv" / "bin" / "darkroom"
    own.parent.mkdir(parents=True)
    for program in (own, stranger := tmp_path / "stranger" / "darkroom"):
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(own.with_name("python")))
    monkeypatch.setenv("PATH", str(stranger.parent))
    monkeypatch.chdir(tmp_path)
    assert as_typed() == "'my venv/bin/darkroom'"
    monkeypatch.chdir(stranger.parent)
    assert as_typed() == f"'{own}'"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "darkroom").symlink_to(own)
    monkeypatch.setenv("PATH", f"{tmp_path / 'links'}:{stranger.parent}")
    assert as_typed() == "darkroom"
    said = welcome("http://127.0.0.1:8000", "", tmp_path, needs_key=False)
    assert ("--url" in said, " -o " in said) == (False, False), "copied twice, it would be refused: the file is there"
    assert "--url http://127.0.0.1:8001" in welcome("http://127.0.0.1:8001", "", tmp_path, needs_key=False)


def test_where_things_lie_is_noted_for_a_backup(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path
) -> None:
    """It may be asked for where the service's environment is not: its own unit, or a container."""
    monkeypatch.chdir(tmp_path)
    given = {"REDIS_URL": valkey_url.replace("://", "://:a-password@", 1), "DARKROOM_STORAGE_URL": "./data/pictures"}
    monkeypatch.setattr(Supervisor, "ask_redis", lambda *_: None)
    monkeypatch.setattr("app.cli.lost_workers.LostWorkers.open", lambda *_: None)
    pictures = tmp_path / "data" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / CELL_MARK).touch()
    environment_of_children("--data", "data", **given)
    assert not (pictures / CELL_MARK).exists(), "whose they are is clear, whatever has become of the Redis of before"
    (pictures / CELL_MARK).touch()
    assert Places.noted(tmp_path / "data") == Places(jobs="elsewhere", pictures="own")
    environment_of_children("--data", "data", **given | {"DARKROOM_STORAGE_URL": "./elsewhere"})
    assert Places.noted(tmp_path / "data") == Places(jobs="elsewhere", pictures="elsewhere")
    assert (pictures / CELL_MARK).exists(), "of another place that is for its operator to say"
    assert "a-password" not in (tmp_path / "data" / PLACES).read_text()


def test_half_a_folder_is_not_started_on(tmp_path: Path) -> None:
    """That of a restore that was killed: its pictures may be there, and its jobs not yet."""
    (tmp_path / "data" / ".restoring-0123").mkdir(parents=True)
    with nothing_given() as nothing:
        nothing.setattr("app.cli.up.signal.signal", lambda *_: None)
        nothing.setattr(Supervisor, "watch", lambda _: None)
        result = CliRunner().invoke(app, ["up", "--data", str(tmp_path / "data")])
    assert result.exit_code == CANNOT_START
    assert "was cut off: remove that folder and restore again" in result.stderr
    assert not (tmp_path / "data" / "valkey").exists()


def test_port_zero_is_one_free_port_for_all(monkeypatch: pytest.MonkeyPatch, valkey_url: str, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment_of_children(REDIS_URL=valkey_url, DARKROOM_PORT="0")
    assert int(found["DARKROOM_PORT"]) > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"DARKROOM_PORT": "http"}, "DARKROOM_PORT: "),
        ({"DARKROOM_STORAGE_URL": "memory://"}, "DARKROOM_STORAGE_URL: memory:// is seen by one process only"),
        ({"DARKROOM_HOST": "0.0.0.0"}, "DARKROOM_API_KEYS=name:key"),
        ({"DARKROOM_HOST": "192.0.2.1", "DARKROOM_PORT": "0", "DARKROOM_REQUIRE_KEYS": "true"}, "--host"),
        ({"REDIS_URL": "redis+cluster://127.0.0.1:1"}, "REDIS_URL: Redis Cluster is not supported"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, given: dict[str, str], words: str) -> None:
    with nothing_given() as monkeypatch:
        monkeypatch.setattr("app.cli.up.signal.signal", lambda *_: None)
        result = CliRunner().invoke(app, ["up", "--data", str(tmp_path / "data")], env=given)
    assert result.exit_code == CANNOT_START
    assert words in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "data").exists()
