"""Options of both rooms: known to each other, documented, and refused with a sentence when they cannot be."""

from __future__ import annotations

import pytest

from app.contract.environment import GATEWAY, PREFIX, WORKER, SettingsError, read_settings
from app.settings import Settings
from worker.settings import WorkerSettings


def names(kind: type[Settings] | type[WorkerSettings]) -> set[str]:
    return {PREFIX + name.upper() for name in kind.model_fields}


def test_each_room_knows_the_names_of_the_other() -> None:
    assert names(Settings) - names(WorkerSettings) == GATEWAY
    assert names(WorkerSettings) - names(Settings) == WORKER


def test_what_both_rooms_read_means_the_same() -> None:
    for name in Settings.model_fields.keys() & WorkerSettings.model_fields.keys():
        ours, theirs = Settings.model_fields[name], WorkerSettings.model_fields[name]
        assert ours.annotation == theirs.annotation, name
        assert ours.validation_alias == theirs.validation_alias, name
        assert ours.get_default(call_default_factory=True) == theirs.get_default(call_default_factory=True), name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DARKROOM_SEAT", "4", "DARKROOM_SEAT is not an option of Darkroom; did you mean DARKROOM_SEATS?"),
        ("DARKROOM_SEATS", "many", "DARKROOM_SEATS: "),
        ("DARKROOM_SEATS", "0", "DARKROOM_SEATS: "),
        ("DARKROOM_DTYPE", "int8", "DARKROOM_DTYPE: "),
    ],
)
def test_a_worker_refuses_what_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        read_settings(WorkerSettings)


def test_a_secret_is_not_repeated_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_API_KEYS", "name:short-secret")
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings)
    assert "short-secret" not in str(caught.value)
