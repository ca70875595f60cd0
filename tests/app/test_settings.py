"""Options: read from the environment, refused when they cannot be, and never shown when they are secret."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.cli.gateway import CannotStart, listen
from app.contract.common.environment import ASKING_FOR_KEYS, PREFIX, WORKER, SettingsError, given, read_settings
from app.edge.auth import keys_from_text
from app.settings import Settings, settings_from_env
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
KEY = "k" * 32


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DARKROOM_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


def from_env(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return settings_from_env()


def test_defaults_serve_this_machine_only() -> None:
    settings = settings_from_env()
    assert settings.is_local
    assert settings.storage_url.startswith("file:///")
    assert settings.storage_url.endswith("/data/pictures")
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_env(
        monkeypatch,
        DARKROOM_ALLOWED_HOSTS="a.example, *.b.example",
        DARKROOM_WEBHOOK_ALLOW_CIDRS="127.0.0.0/8,::1/128",
        DARKROOM_WEBHOOK_PORTS="8443",
    )
    assert settings.allowed_hosts == ("a.example", "*.b.example")
    assert [str(network) for network in settings.webhook_allow_cidrs] == ["127.0.0.0/8", "::1/128"]
    assert settings.webhook_ports == (8443,)


def test_the_plain_redis_url_is_read_and_ours_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_env(monkeypatch, REDIS_URL="redis://a/1").redis_url.get_secret_value() == "redis://a/1"
    assert from_env(monkeypatch, DARKROOM_REDIS_URL="redis://b/1").redis_url.get_secret_value() == "redis://b/1"


def test_a_misspelt_option_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingsError, match=r"DARKROOM_QUEUE_LIMITT is not an option.*did you mean DARKROOM_QUEUE_LIMIT"
    ):
        from_env(monkeypatch, DARKROOM_QUEUE_LIMITT="7")


def test_the_workers_options_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from_env(monkeypatch, **dict.fromkeys(WORKER, "x"), DARKROOM_TEST_S3="1")
    assert not WORKER & {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "DARKROOM_PORT: Input should be a valid integer"),
        ("PICTURE_URL_SECONDS", "604801", "DARKROOM_PICTURE_URL_SECONDS is at most 604800 here"),
        ("WEBHOOK_ALLOW_CIDRS", "here", "DARKROOM_WEBHOOK_ALLOW_CIDRS"),
        ("PUBLIC_URL", "example.org", "DARKROOM_PUBLIC_URL: must look like"),
        ("SIGNING_KEY", "short", "DARKROOM_SIGNING_KEY is too short"),
        ("OPERATOR_TOKEN", "short", "DARKROOM_OPERATOR_TOKEN is no token"),
        ("OPERATOR_TOKEN", "with a space in it, and long enough to be one", "DARKROOM_OPERATOR_TOKEN is no token"),
        ("OPERATOR_TOKEN", "drk_" + "x" * 40, "DARKROOM_OPERATOR_TOKEN is no token"),
        ("SIGNING_KEYS_ACCEPTED", f"{KEY},short-secret", "one of DARKROOM_SIGNING_KEYS_ACCEPTED is too short"),
        ("SIGNING_KEYS_ACCEPTED", f"{KEY},", "one of DARKROOM_SIGNING_KEYS_ACCEPTED is too short"),
        ("API_KEYS", "ann", "entry 1 must read tenant:key"),
        ("API_KEYS", f"ann:{KEY},bob:short-secret", "the key of entry 2"),
        ("API_KEYS", f"ann:{KEY},bob:{KEY}", "entry 2 belongs to another tenant"),
    ],
)
def test_values_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        from_env(monkeypatch, **{f"DARKROOM_{name}": value})
    sentence = str(refused.value)
    assert message in sentence
    assert "\n" not in sentence
    assert KEY not in sentence
    assert "short-secret" not in sentence


OPTIONS = sorted(PREFIX + name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("name", [each for each in OPTIONS if each not in ASKING_FOR_KEYS])
def test_empty_is_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`DARKROOM_SIGNING_KEY=` was a key for one process and none for another, `DARKROOM_HOST=` every address."""
    missing = settings_from_env()
    assert from_env(monkeypatch, **{name: ""}) == missing
    assert given({name: "", "PATH": ""}) == {"PATH": ""}


@pytest.mark.parametrize("name", ASKING_FOR_KEYS)
def test_what_asks_for_keys_must_not_be_empty(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is empty"):
        from_env(monkeypatch, **{name: ""})
    assert given({name: ""}) == {name: ""}


@pytest.mark.parametrize("option", ["api_keys", "signing_key"])
def test_an_empty_secret_is_none_of_a_secret(option: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({option: ""})


def test_an_empty_url_of_ours_lets_the_plain_one_through(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_env(monkeypatch, DARKROOM_REDIS_URL="", REDIS_URL="redis://a/1")
    assert settings.redis_url.get_secret_value() == "redis://a/1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DARKROOM_API_KEYS", "me:change-me-change-me-change-me-change-me"),
        ("DARKROOM_SIGNING_KEY", "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME"),
        ("DARKROOM_SIGNING_KEYS_ACCEPTED", f"{KEY},CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME"),
        ("DARKROOM_STORAGE_SECRET_ACCESS_KEY", "changeme-store"),
        ("DARKROOM_REDIS_URL", "redis://default:replace-me@valkey:6379/0"),
        ("REDIS_URL", "redis://default:change-me@valkey:6379/0"),
    ],
)
def test_words_of_examples_are_no_secrets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    kinds: list[type[Settings] | type[WorkerSettings]] = [Settings]
    if name.removeprefix(PREFIX).lower() in ("redis_url", "storage_secret_access_key"):
        kinds.append(WorkerSettings)
    for kind in kinds:
        with pytest.raises(SettingsError, match=r"holds a word of an example, .*; `openssl rand -hex 32`") as refused:
            read_settings(kind)
        assert name.removeprefix(PREFIX) in str(refused.value)
        assert value not in str(refused.value)


def test_the_example_environment_starts_nothing() -> None:
    """Whatever is secret is empty there, and compose itself refuses to start a service whose secret is empty."""
    lines = (ROOT / "deploy" / "env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    secret = {name for name in example if re.search(r"KEYS?$|PASSWORD$", name)} - {"STORE_ACCESS_KEY"}
    assert secret == {"DARKROOM_API_KEYS", "DARKROOM_SIGNING_KEY", "REDIS_PASSWORD", "STORE_SECRET_KEY"}
    assert {name: example[name] for name in secret} == dict.fromkeys(secret, "")
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in secret:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", compose)
        assert uses, name
        assert all(use.startswith(":?") for use in uses), f"{name} may be empty"


def test_keys_open_the_way_to_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_env(monkeypatch, DARKROOM_HOST="0.0.0.0", DARKROOM_API_KEYS=f"ann:{KEY}, ann:{KEY}2")
    assert sorted(settings.keys().values()) == ["ann", "ann"]
    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("192.0.2.7", "http://192.0.2.7:8000"),
    ],
)
def test_its_own_url_is_one_that_can_be_asked(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    assert from_env(monkeypatch, DARKROOM_HOST=host).own_url == url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", ""])
def test_only_who_listens_needs_the_keys(host: str) -> None:
    """The webhooks are given the same environment, without them."""
    settings = Settings(host=host)
    with pytest.raises(CannotStart, match=r"without keys would serve everybody.*DARKROOM_API_KEYS=name:key"):
        listen(settings)


def test_keys_are_kept_as_digests() -> None:
    [digest] = keys_from_text(f"ann:{KEY}")
    assert len(digest) == 32
    assert KEY.encode() not in digest


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"picture_url_seconds": 7 * 86_400}, True),
        ({"picture_url_seconds": 30 * 86_400}, False),
        ({"picture_url_seconds": 30 * 86_400, "retention_hours": 30 * 24}, True),
        ({"picture_url_seconds": 30 * 86_400, "retention_hours": 30 * 24, "storage_url": "s3://bucket/x"}, False),
        ({"picture_url_seconds": 7 * 86_400, "retention_hours": 30 * 24, "storage_url": "s3://bucket/x"}, True),
        ({"retention_hours": 0.1}, True),
    ],
)
def test_links_live_no_longer_than_pictures_and_signatures(options: dict[str, Any], allowed: bool) -> None:
    """The last one is a setting that installations have, with the default of the other."""
    if allowed:
        Settings(**options)
    else:
        with pytest.raises(ValidationError, match="DARKROOM_RETENTION_HOURS"):
            Settings(**options)
