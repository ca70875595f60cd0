"""Errors speak of options and suggest what was probably meant; Tab offers what the service knows, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from app.cli.client import Refused
from app.cli.drawing_commands import generate
from app.cli.main import app
from app.cli.spoken import moment, spoken
from app.cli.wording import OPTIONS, explained
from app.cli.words import nearest
from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest
from tests.app.conftest import OPERATOR_TOKEN, Running, ScriptedWorker
from tests.app.test_admin import kill
from tests.cli.conftest import Run, environment_of, no_service
from tests.cli.test_hostile import KEY, MODEL, Answer, job_at, routes, serving
from tests.system.conftest import COMMAND
from tests.waiting import WAIT_SECONDS, until

MANY = ("ddim", "euler", "euler_a", "dpmpp_2m", *(f"solver_{number}" for number in range(40)))


def all_commands(group: Any, name: str = "darkroom") -> dict[str, Any]:
    found = {name: group}
    for word, command in getattr(group, "commands", {}).items():
        found |= all_commands(command, f"{name} {word}")
    return found


def test_no_flag_has_a_type_in_help(run: Run) -> None:
    from typer.main import get_command

    for name in all_commands(get_command(app)):
        text = run(*name.split()[1:], "--help").stdout
        assert "--help" in text, name
        assert "bool" not in text, name
        # Typer puts brackets and dots around what an argument is called: of its own it has none.
        assert not re.search(r"\[\[|\.\.\.\}", text), name


def test_every_option_is_a_parameter() -> None:
    assert OPTIONS.keys() <= JobRequest.model_fields.keys()
    told = run_help()
    assert all(option in told for option in OPTIONS.values() if option.startswith("--"))
    assert generate.__doc__


def run_help() -> str:
    from typer.main import get_command

    command = all_commands(get_command(app))["darkroom generate"]
    return " ".join(option for param in command.params for option in param.opts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--steps", "5000"), "--steps must be 1 to 100"),
        (("--guidance", "999"), "--guidance must be 0 to 20"),
        (("--num-images", "9"), "--num-images must be 1 to 4"),
        (("--width", "3"), "--width must be 64 to 256 pixels"),
        (("--seed", str(2**63 - 1), "-n", "2"), "--seed seed + --num-images must stay below 2^63"),
        (("--model", "startr"), "did you mean starter?"),
        (("--model", ""), "--model is empty"),
        (("--scheduler", ""), "--scheduler is empty"),
        (("--aspect-ratio", "1:1", "--width", "64"), "--aspect-ratio goes without width and height"),
        (("--quality", "60"), "--quality must be 100 with png"),
    ],
)
def test_errors_name_options(run: Run, worker: ScriptedWorker, arguments: tuple[str, ...], said: str) -> None:
    done = run("generate", "a frog", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert "/" not in done.stderr.replace(str(Path.cwd()), "")


def test_what_the_service_says_is_said_as_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    try:
        said = "No worker serves a since 2026-11-27T21:29:09.153Z; GET /v1/models lists those that are."
        assert (
            spoken(said) == "No worker serves a since 2026-11-27 23:29:09 XYZ; `darkroom models` lists those that are."
        )
        assert moment("2026-11-27T21:29:09.153Z") == "2026-11-27 23:29:09"
    finally:
        monkeypatch.undo()
        time.tzset()
    for other in ("GET /v1/models/starter", "since 2026-99-99T00:00:00.000Z", "2026-11-27T21"):
        assert spoken(f"{other}\x1b[1m") == f"{other} [1m"


def test_who_can_wait_has_no_deadline(run: Run) -> None:
    done = run("generate", "a frog", "--batch", "--deadline", "5")
    assert (done.exit_code, "--batch means that it can wait" in done.stderr) == (2, True)


def test_of_forty_names_the_nearest_is_told(
    run: Run, gateway: Running, redis_client: redis.Redis, card: ModelCard
) -> None:
    ScriptedWorker(redis_client, card.model_copy(update={"schedulers": MANY}), gateway.app.state.settings).announce()
    for given, meant in (("Eular A", "euler_a"), ("dpmpp_2mm", "dpmpp_2m"), ("dddim", "ddim")):
        done = run("generate", "a frog", "--scheduler", given)
        assert done.exit_code == 2
        assert f"did you mean {meant}" in done.stderr
        assert "solver_1" not in done.stderr
    shown = run("models", "show").stdout
    assert "solver_39" in shown
    assert json.loads(run("models", "show", "starter", "--json").stdout)["schedulers"] == list(MANY)
    assert "did you mean starter?" in run("models", "show", "stater").stderr


def test_values_of_options_are_suggested(run: Run, worker: ScriptedWorker) -> None:
    for arguments, meant in (
        (("jobs", "list", "--status", "runing"), "running"),
        (("keys", "create", "me", "--scope", "raed"), "read"),
        (("models", "forget", "startr"), "starter"),
        (("generate", "a", "-o", "{promt}.png"), "{prompt}"),
        (("generat", "a"), "'generate'"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, arguments
        # A usage error stands in a box, which may break it anywhere.
        words = " ".join(done.stderr.replace("│", " ").split()).lower()
        assert f"did you mean {meant}" in words, (arguments, done.stderr)


def test_nearest() -> None:
    assert nearest("Euler a", ["euler", "euler_a", "ddim"]) == "euler_a"
    assert nearest("xyz", ["euler", "ddim"]) is None
    assert nearest("", ["euler"]) is None
    assert nearest("euler", []) is None


def completed(environment: dict[str, str], cwd: Path, *words: str) -> list[str]:
    """What bash is offered behind these words."""
    asked = {"_DARKROOM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("darkroom", *words))}
    asked["COMP_CWORD"] = str(len(words))
    done = subprocess.run(
        [COMMAND], env=environment | asked, cwd=cwd, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def tabs_offer(names: list[str], environment: dict[str, str], cwd: Path, *words: str) -> None:
    """These, and in the end: where the service needs more than the second and a half, one presses Tab again."""

    def press() -> list[str]:
        found = completed(environment, cwd, *words)
        assert found in (names, [])
        return found

    until(press)


@pytest.mark.parametrize(
    ("pointer", "said"),
    [
        ("/loras/0/name", "--lora ink is odd"),
        ("/loras/0/weight", "--lora ink weight is odd"),
        ("/loras/1/name", "--lora is odd"),
        ("/loras/2/name", "--lora is odd"),
        ("/loras/3/name", "--lora is odd"),
        (f"/loras/{'9' * 5_000}/name", "--lora is odd"),
        ("/loras/-1/name", "--lora is odd"),
        ("/loras/x/name", "--lora is odd"),
        ("/control/0/model", "--control is odd"),
    ],
)
def test_an_adapter_that_the_request_does_not_name_is_none(pointer: str, said: str) -> None:
    """What is varied or drawn again is anybody's record, and a service may be of another release, or hostile."""
    request = {"loras": [{"name": "ink"}, {"weight": 1}, "ink"]}
    body = {"errors": [{"pointer": pointer, "detail": "is odd"}]}
    refusal = Refused(httpx2.Response(422), body)
    # Of nothing that is asked of a service.
    service: Any = None
    assert asyncio.run(explained(service, refusal, request)) == said
    assert asyncio.run(explained(service, refusal, request, {})) == f"{pointer[1:].replace('/', '.')} is odd"


def test_tab(gateway: Running, worker: ScriptedWorker, tmp_path: Path) -> None:
    environment = environment_of(gateway)
    job_id = gateway.client.post("/v1/jobs", json={"prompt": "a frog"}).json()["id"]
    (tmp_path / "out.png").touch()
    tabs_offer(["euler", "euler_a"], environment, tmp_path, "generate", "--scheduler", "eu")
    tabs_offer(["starter"], environment, tmp_path, "generate", "--model", "st")
    tabs_offer([job_id], environment, tmp_path, "jobs", "show", "job_")
    tabs_offer([job_id[4:]], environment, tmp_path, "jobs", "cancel", job_id[4:8])
    tabs_offer(["out.png"], environment, tmp_path, "trajectory", "o")
    tabs_offer(["running"], environment, tmp_path, "jobs", "list", "--status", "r")
    tabs_offer(["queued"], environment, tmp_path, "jobs", "cancel", "--all", "--status", "q")
    with no_service() as url:
        nobody = environment | {"DARKROOM_URL": url}
        assert completed(nobody, tmp_path, "generate", "--scheduler", "eu") == []


def test_tab_for_operators(gateway: Running, worker: ScriptedWorker, redis_client: redis.Redis, tmp_path: Path) -> None:
    """Of a service without keys, which knows them by the token of its data folder."""
    environment = environment_of(gateway) | {"DARKROOM_API_KEY": ""}
    token = tmp_path / "data" / "operator.token"
    token.parent.mkdir()
    token.write_text(OPERATOR_TOKEN)
    dead = kill(gateway.client, worker, redis_client)
    worker.announce()
    tabs_offer(["w1"], environment, tmp_path, "admin", "drain", "w")
    elsewhere = token.parent.rename(tmp_path / "elsewhere")
    assert completed(environment, tmp_path, "admin", "drain", "w") == []
    named = ("--data", str(elsewhere))
    tabs_offer(["w1"], environment | {"DARKROOM_API_KEY": "to draw with"}, tmp_path, "admin", "undrain", *named, "w")
    tabs_offer([dead], environment, tmp_path, "admin", "retry", *named, "job_")


def test_tab_offers_nothing_that_a_shell_would_run_and_gives_no_key_away(tmp_path: Path) -> None:
    """A shell evaluates what it is offered."""
    evil = ["st$(touch pwned)", "st`id`", "st;id", "st\nid", "st'", 'st"', "st\x1b[2J", "-st"]
    models = [MODEL | {"id": name, "default": True, "schedulers": evil} for name in ("star.ter", *evil)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM")}
    with serving(lambda method, path: Answer(b"")) as elsewhere, serving(routes(job_at("http://x"), models)) as service:
        asked = environment | {"DARKROOM_URL": service.url, "DARKROOM_API_KEY": KEY}
        tabs_offer(["star.ter"], asked, tmp_path, "generate", "--model", "st")
        assert completed(asked, tmp_path, "generate", "--scheduler", "st") == []
        assert service.keys() == {f"Bearer {KEY}"}
        moved = Answer(b"", 302, {"Location": elsewhere.url + "/v1/models"})
        service.answer = lambda method, path: moved
        assert completed(asked, tmp_path, "generate", "--model", "st") == []
        service.answer = lambda method, path: Answer(b"[" * 100_000)
        assert completed(asked, tmp_path, "generate", "--model", "st") == []
    assert elsewhere.heard == []


def test_the_completion_installs_itself(tmp_path: Path) -> None:
    """For the shell that it is called from."""
    environment = os.environ | {"HOME": str(tmp_path)}
    script = f"{COMMAND} --install-completion; true"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert "completion installed" in done.stdout, done.stderr
    [file] = (tmp_path / ".bash_completions").iterdir()
    assert "_DARKROOM_COMPLETE=complete_bash" in file.read_text()
    assert str(file) in (tmp_path / ".bashrc").read_text()
