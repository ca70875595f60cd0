"""`darkroom inputs`: what was sent in is listed, and deleted where no job needs it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker
from tests.cli.conftest import Run, picture


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"takes": ("image", "strength"), "tasks": ("text-to-image", "image-to-image")})


def sent(gateway: Running, *colours: str) -> list[dict[str, Any]]:
    """Pictures as they are kept, in order."""
    answers = [gateway.client.post("/v1/inputs", files={"file": picture(colour, side=64)}) for colour in colours]
    assert {answer.status_code for answer in answers} == {201}
    return [answer.json() for answer in answers]


def kept(gateway: Running) -> list[str]:
    return [each["id"] for each in gateway.client.get("/v1/inputs").json()["data"]]


def test_what_was_sent_in_is_listed(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    nothing = run("inputs", "list")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "no pictures" in nothing.stderr
    first, second, third = sent(gateway, "red", "teal", "gray")
    table = run("inputs", "list", "--limit", "2")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["input", third["id"], second["id"]]
    assert "64x64" in table.stdout
    assert "--limit" in table.stderr
    listed = json.loads(run("inputs", "list", "--json").stdout)
    assert listed == {"object": "list", "data": [third, second, first], "next_cursor": None}


def test_one_is_deleted_by_its_id_or_its_hash(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    first, second, third = sent(gateway, "red", "teal", "gray")
    done = run("inputs", "delete", first["id"], second["sha256"])
    assert (done.exit_code, done.stdout) == (0, f"{first['id']}  deleted\n{second['sha256']}  deleted\n")
    assert kept(gateway) == [third["id"]]
    gone = run("inputs", "delete", first["id"])
    assert (gone.exit_code, gone.stdout) == (2, "")


def test_all_but_those_that_a_job_needs(
    run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.inputs.PAGE", 1)
    first, second, third = sent(gateway, "red", "teal", "gray")
    job = gateway.client.post("/v1/jobs", json={"prompt": "a boat", "image": {"input": second["id"]}})
    assert job.status_code == 202, job.text
    refused = run("inputs", "delete", "--all", input="n\n")
    assert refused.exit_code == 1
    assert len(kept(gateway)) == 3
    needed = run("inputs", "delete", first["sha256"], second["sha256"])
    assert (needed.exit_code, needed.stdout) == (2, f"{first['sha256']}  deleted\n")
    assert f"{second['sha256']}: " in needed.stderr
    done = run("inputs", "delete", "--all", "--json", input="y\n")
    assert (done.exit_code, kept(gateway)) == (1, [second["id"]])
    assert [json.loads(line)["id"] for line in done.stdout.splitlines() if line.startswith("{")] == [third["id"]]
    assert f"{second['id']}  stays" in done.stderr
    worker.succeed(worker.claim())
    assert run("inputs", "delete", "--all", "--yes").exit_code == 0
    assert kept(gateway) == []
    assert "no pictures" in run("inputs", "delete", "--all", "--yes").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the pictures, or say --all"),
        (("in_" + "0" * 24, "--all"), "name the pictures, or say --all"),
        (("in_" + "0" * 24, "--yes"), "--yes goes with --all"),
        (("../jobs",), "../jobs is neither the whole id of a picture that was sent in"),
        (("in_0123",), "in_0123 is neither the whole id"),
        (("photo.png",), "`darkroom inputs list` shows them"),
        (("in_" + "0" * 24, "in_" + "1" * 24), f"no picture that you sent in is in_{'0' * 24}; `darkroom inputs list`"),
    ],
)
def test_wrong_words_delete_nothing(run: Run, gateway: Running, arguments: tuple[str, ...], said: str) -> None:
    sent(gateway, "red")
    done = run("inputs", "delete", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(kept(gateway)) == 1
