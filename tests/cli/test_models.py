"""`darkroom models`: the list, and forgetting one that is gone."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from tests.app.conftest import OPERATOR, Running, ScriptedWorker
from tests.cli.conftest import Hand, Run, no_service, picture


@pytest.fixture
def gone(run: Run, redis_client: redis.Redis, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose last worker has left; whatever is said of models is heard at once."""
    monkeypatch.setattr("app.jobs.model_registry.FRESH_SECONDS", 0.0)
    ownership = Ownership(redis_client)
    ownership.announce(card.model_copy(update={"name": "gone"}), "w9")
    ownership.leave("gone", "w9")
    return "gone"


def test_the_list_shows_which_one_is_meant(run: Run, worker: ScriptedWorker, gone: str) -> None:
    done = run("models", "list")
    assert done.exit_code == 0, done.stderr
    [head, *rows] = done.stdout.splitlines()
    assert head.split()[0] == "model"
    assert [row.split()[:2] for row in rows] == [["gone", "away"], ["starter", "(default)"]]
    assert run("models").stdout == done.stdout
    listed = json.loads(run("models", "list", "--json").stdout)
    assert {model["id"]: model["default"] for model in listed["data"]} == {"gone": False, "starter": True}


def test_no_proxy_is_asked_for_this_machine(run: Run, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it could reach under that name is itself. One of SOCKS ended every command in a traceback."""
    with no_service() as url:
        for proxy in (url, url.replace("http", "socks5h"), "http://[::1"):
            monkeypatch.setenv("ALL_PROXY", proxy)
            monkeypatch.setenv("HTTP_PROXY", proxy)
            done = run("models")
            assert done.exit_code == 0, done.stderr
            if proxy != url:
                elsewhere = run("models", "--url", "http://192.0.2.1")
                assert (elsewhere.exit_code, elsewhere.stdout) == (2, "")
                assert "ALL_PROXY or HTTP_PROXY cannot be used" in elsewhere.stderr


def test_the_list_shows_prompts_to_begin_with(
    run: Run, gateway: Running, redis_client: redis.Redis, card: ModelCard
) -> None:
    prompts = ("a fox", "a fox's den", "\x1b[31ma red fox", "a fourth one")
    listing = card.model_copy(update={"vocabulary": ("fox",), "examples": prompts})
    ScriptedWorker(redis_client, listing, gateway.app.state.services.settings).announce()
    done = run("models")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[2:4] == ["", "starter draws well, for example:"]
    commands = [shlex.split(line) for line in done.stdout.splitlines()[4:]]
    assert [command[:2] for command in commands] == [["darkroom", "generate"]] * 3
    assert [command[2] for command in commands[:2]] == ["a fox", "a fox's den"]
    assert "\x1b" not in done.stdout
    [listed] = json.loads(run("models", "--json").stdout)["data"]
    assert (listed["vocabulary"], listed["examples"]) == (["fox"], list(prompts))


def test_the_list_says_who_is_paused(run: Run, worker: ScriptedWorker, gateway: Running, gone: str) -> None:
    gateway.client.post("/v1/admin/models/starter/pause", json={}, headers=OPERATOR).raise_for_status()
    [_, away, paused] = run("models", "list").stdout.splitlines()[:3]
    assert "  away since 20" in away
    assert "starter (default)  paused" in paused


def test_options_before_a_command_are_not_lost(run: Run, worker: ScriptedWorker) -> None:
    done = run("models", "--json", "list")
    assert done.exit_code == 2
    assert "darkroom models list" in done.stderr


def test_one_that_is_gone_is_forgotten(run: Run, worker: ScriptedWorker, gone: str) -> None:
    done = run("models", "forget", gone)
    assert (done.exit_code, done.stdout) == (0, "gone is forgotten; a worker that serves it brings it back\n")
    assert [model["id"] for model in json.loads(run("models", "--json").stdout)["data"]] == ["starter"]
    again = run("models", "forget", gone)
    assert again.exit_code == 2
    assert "there is no such model" in again.stderr


def test_one_that_is_served_is_not(run: Run, worker: ScriptedWorker) -> None:
    done = run("models", "forget", "starter")
    assert done.exit_code == 2
    assert "starter has 1 worker(s)" in done.stderr


def test_one_with_jobs_only_if_they_may_be_called_off(run: Run, gateway: Running, gone: str) -> None:
    jobs = [gateway.client.post("/v1/jobs", json={"prompt": "a", "model": gone}).json() for _ in range(2)]
    done = run("models", "forget", gone)
    assert done.exit_code == 2
    assert "gone has 2 job(s) that wait for it" in done.stderr
    assert "--cancel-jobs" in done.stderr
    done = run("models", "forget", gone, "--cancel-jobs")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "canceled 2 of its jobs")
    for job in jobs:
        assert gateway.client.get(f"/v1/jobs/{job['id']}").json()["status"] == "canceled"


def test_generate_says_that_nobody_draws(
    run: Run, gateway: Running, redis_client: redis.Redis, card: ModelCard, gone: str
) -> None:
    """Said when the job is taken. Here somebody draws it all the same."""
    worker = ScriptedWorker(redis_client, card.model_copy(update={"name": gone}), gateway.app.state.services.settings)
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(lambda: worker.succeed(worker.claim(), data=picture("red")))
        done = run("generate", "a frog", "-o", "out.png")
        assert drawn.result()
    assert done.exit_code == 0, done.stderr
    assert "warning: No worker serves gone since " in done.stderr


def test_a_watcher_sees_what_a_job_waits_for(run: Run, gateway: Running, gone: str) -> None:
    gateway.client.post("/v1/jobs", json={"prompt": "a frog", "model": gone})
    assert "queued, no worker serves its model" in run("jobs", "list").stdout


def test_a_dead_job_of_a_forgotten_model_is_not_run_again(
    run: Run, gateway: Running, hand: Hand, redis_client: redis.Redis
) -> None:
    job = gateway.client.post("/v1/jobs", json={"prompt": "fail"}, headers={"Prefer": "wait=60"}).json()
    redis_client.hdel(keys.CARDS, "starter")
    done = run("jobs", "retry", job["id"])
    assert done.exit_code == 2
    assert "its model was forgotten" in done.stderr


def test_a_model_has_a_further_name(run: Run, worker: ScriptedWorker, gateway: Running, gone: str) -> None:
    done = run("models", "alias", "dall-e-3", "starter")
    assert (done.exit_code, done.stdout) == (0, "dall-e-3 means starter\n")
    job = gateway.client.post("/v1/jobs", json={"prompt": "a", "model": "dall-e-3"}).json()
    assert (job["model"], job["requested_model"]) == ("starter", "dall-e-3")
    assert "starter (default, dall-e-3)" in run("models", "list").stdout
    assert "requested_model      dall-e-3" in run("jobs", "show", job["id"]).stdout
    assert "  starter  " not in run("jobs", "list").stdout
    gateway.client.post("/v1/jobs", json={"prompt": "a", "model": gone})
    [_, *rows] = run("jobs", "list").stdout.splitlines()
    assert [("  gone  " in row, "  starter  " in row) for row in rows] == [(True, False), (False, True)]
    gateway.client.delete("/v1/jobs/" + json.loads(run("jobs", "list", "--json").stdout)["data"][0]["id"])
    assert run("models", "alias", "dall-e-3", gone).stdout == f"dall-e-3 means {gone} and no more starter\n"
    [listed] = json.loads(run("models", "alias", "--json").stdout)["data"]
    assert listed == {"id": "dall-e-3", "alias_of": gone, "state": "works"}
    assert "dall-e-3 is another name of gone" in run("models", "forget", "dall-e-3").stderr
    forgotten = run("models", "forget", gone)
    assert (forgotten.exit_code, forgotten.stderr) == (0, "until then these names of it lead nowhere: dall-e-3\n")
    assert run("models", "alias").stdout.split()[-3:] == ["dall-e-3", gone, "leads-nowhere"]
    assert (
        run("models", "alias", "dall-e-3", "--remove").stdout == f"dall-e-3 means nothing any more; it meant {gone}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["starter", "gone"], "'starter' is what a model is called, and may not hide it"),
        (["x", "stater"], "'stater' is not served here; did you mean starter?"),
        (["x", "mine"], "'mine' is an alias itself: name the model that it means, starter"),
        (["mien", "--remove"], "'mien' is no name that was given while the service ran; did you mean mine?"),
        (["no name", "starter"], "is no name that requests could use"),
        (["x"], "say NAME and MODEL, or NAME and --remove"),
        (["x", "starter", "--remove"], "say NAME and MODEL, or NAME and --remove"),
        (["--remove"], "say NAME and MODEL, or NAME and --remove"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    run: Run, worker: ScriptedWorker, gone: str, arguments: list[str], words: str
) -> None:
    worker.announce()
    assert run("models", "alias", "mine", "starter").exit_code == 0
    done = run("models", "alias", *arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert run("models", "alias").stdout.split()[-3:] == ["mine", "starter", "works"]


def test_a_model_that_cannot_be_composed_is_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    parts = ("--decoder", str(tmp_path / "nowhere"), "--prior", str(tmp_path / "nothing"))
    done = run("models", "compose", str(tmp_path / "whole"), *parts)
    assert done.exit_code == 2
    assert "nowhere does not exist" in done.stderr
    assert not (tmp_path / "whole").exists()
