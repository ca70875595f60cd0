"""`darkroom admin`: the operator's view in a terminal, over a real gateway."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio

from app.cli import admin_changes
from app.cli.client import Service
from app.cli.kept_secrets import operator_token
from app.contract.redis import keys
from app.edge.keyring import Keyring
from tests.app.conftest import OPERATOR, OPERATOR_TOKEN, Running, ScriptedWorker
from tests.app.test_admin import NOTE, kill
from tests.app.test_jobs import PARAMETERS
from tests.cli.conftest import Run
from tests.waiting import until


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Commands run where `darkroom up` was started: its data folder is there."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data" / "operator.token"
    file.parent.mkdir()
    file.write_text(OPERATOR_TOKEN)
    return file


def test_who_has_not_the_services_file_is_no_operator(run: Run, worker: ScriptedWorker, token: Path) -> None:
    token.write_text("x" * 64)
    wrong = run("admin", "queue")
    token.unlink()
    for done in (wrong, run("admin", "queue"), run("usage", "--all")):
        assert (done.exit_code, "operator.token in its data folder" in done.stderr) == (2, True)
    assert run("usage").exit_code == 0, "what is one's own"


def test_the_file_is_of_this_machines_service_alone(token: Path) -> None:
    assert operator_token("http://127.0.0.1:8000") == operator_token("http://localhost") == OPERATOR_TOKEN
    for url in ("https://pictures.example.org", "http://10.0.0.1:8000", "http://[", ""):
        assert operator_token(url) is None


def test_a_data_folder_is_named(run: Run, worker: ScriptedWorker, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something else would be taken: that is said, and the rest lies around."""
    other = token.parent.rename(token.parent.with_name("elsewhere"))
    monkeypatch.setenv("DARKROOM_API_KEY", "somebody's, to draw with")
    assert run("admin", "queue", "--data", str(other)).exit_code == 0
    assert run("usage", "--all", "--data", str(other)).exit_code == 0
    missing = run("admin", "resume", "starter", "--data", "nowhere")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert f"there is no {Path('nowhere/operator.token')}" in missing.stderr
    assert "say --all or --tenant" in run("usage", "--data", str(other)).stderr


def test_the_file_ends_with_the_first_key(run: Run, worker: ScriptedWorker) -> None:
    assert run("admin", "queue").exit_code == 0
    created = run("keys", "create", "ops", "--scope", "admin")
    key, told = created.stdout.strip(), created.stderr
    assert "from now on everybody needs a key" in told
    assert "are the tenant default's" in told
    assert "from now on" not in run("keys", "create", "ann").stderr, "it is not the first"
    until(lambda: run("admin", "queue").exit_code)
    for done in (run("admin", "queue"), run("usage", "--all")):
        assert (done.exit_code, "the service has keys" in done.stderr) == (2, True)
        assert "has not been revoked" not in done.stderr, "nobody gave a key"
    assert run("admin", "queue", "--api-key", key).exit_code == 0


def test_what_up_was_given_goes_before_the_file(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_OPERATOR_TOKEN", "g" * 40)
    assert operator_token("http://localhost") == "g" * 40
    token.unlink()
    assert operator_token("http://localhost") == "g" * 40
    assert operator_token("http://10.0.0.1:8000") is None


def send(gateway: Running) -> str:
    return str(gateway.client.post("/v1/jobs", json=PARAMETERS).json()["id"])


def test_who_waits(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    none = run("admin", "queue")
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "no job waits or runs\n")
    for _ in range(3):
        send(gateway)
    worker.claim()
    done = run("admin", "queue")
    [head, row] = done.stdout.splitlines()
    assert head.split()[:4] == ["tenant", "model", "waiting", "running"]
    assert row.split()[:4] == ["default", "starter", "2", "1"]
    [listed] = json.loads(run("admin", "queue", "--json").stdout)["data"]
    assert (listed["tenant"], listed["waiting"]) == ("default", 2)
    assert json.loads(run("admin", "queue", "--model", "other", "--json").stdout)["data"] == []


def test_workers_and_models(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    other = worker.card.model_copy(update={"name": "other"})
    worker.ownership.announce(worker.card, "w2", note=NOTE)
    worker.ownership.announce(other, "w2", ready_in=9.0, note=NOTE)
    worker.ownership.starting("w3", "loading the model")
    [head, old, new, starts] = run("admin", "workers").stdout.splitlines()
    assert head.split()[:3] == ["worker", "state", "models"]
    assert old.split()[:3] == ["w1", "serving", "starter"]
    for words in ("serving", "starter (other)", "cuda:0 (H100)", "1/4", "31.5", "0.1.0", "denoise"):
        assert words in new
    assert starts.split()[:2] == ["w3", "starting"]
    assert starts.endswith("loading the model")
    [head, *rows] = run("admin", "models").stdout.splitlines()
    assert [row.split()[:2] for row in rows] == [["other", "ready"], ["starter", "ready"]]


def test_a_model_is_paused_and_goes_on(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    send(gateway)
    done = run("admin", "pause", "starter", "--for", "30m", "--reason", "new weights", "--refuse")
    assert done.exit_code == 0, done.stderr
    assert "starter: paused (since " in done.stdout
    assert "jobs are refused: new weights); 1 waiting, 0 running" in done.stdout
    assert gateway.client.get("/v1/models/starter").json()["paused"]["until"] is not None
    [_, row] = run("admin", "models").stdout.splitlines()
    assert row.split()[:2] == ["starter", "paused"]
    refused = run("generate", "a frog")
    assert (refused.exit_code, "(new weights)" in refused.stderr) == (3, True)
    assert "starter: its jobs are taken; " in run("admin", "resume", "starter").stdout
    assert "starter: was not paused; its jobs are taken as before; " in run("admin", "resume", "starter").stdout
    assert worker.claim()
    assert json.loads(run("admin", "resume", "starter", "--json").stdout)["paused"] is None


@pytest.mark.parametrize("length", ["", "x", "1w", "-5m", "1e9", "m"])
def test_what_is_no_length_of_time(run: Run, worker: ScriptedWorker, length: str) -> None:
    done = run("admin", "pause", "starter", "--for", length)
    assert (done.exit_code, "90s, 30m, 2h or 1d" in done.stderr) == (2, True)


def test_what_the_service_refuses_is_a_sentence(run: Run, worker: ScriptedWorker) -> None:
    for words, said in (
        (("pause", "nobodys"), "No such model is served here; `darkroom models` lists those that are."),
        (("resume", "a/b"), "No such model is served here"),
        (("drain", "nobody"), "No worker of this name was heard of lately. `darkroom admin workers` lists them."),
        (("drain", "w1"), "send it SIGTERM"),
        (("undrain", "nobody"), "No worker of this name was heard of lately"),
        (("pause", "starter", "--for", "9999999"), "seconds"),
        (("retry", "job_" + "0" * 24), "There is no such job"),
        (("retry", "abcdef"), "no job has an id that begins with"),
        (("cancel", "No One", "--yes"), "tenant"),
    ):
        done = run("admin", *words)
        assert (done.exit_code, done.stdout) == (2, ""), words
        assert said in done.stderr, words
        assert "Traceback" not in done.stderr


def test_a_worker_is_seen_leaving(
    run: Run, gateway: Running, worker: ScriptedWorker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_changes, "LOOK_SECONDS", 0.01)
    worker.ownership.announce(worker.card, "w2", note=NOTE)
    told = run("admin", "drain", "w2")
    assert told.stdout == "w2 takes no more jobs, and leaves with its last one\n"
    assert told.stderr == "", "w1 serves the model too"
    assert run("admin", "workers").stdout.splitlines()[2].split()[:2] == ["w2", "draining"]
    assert run("admin", "undrain", "w2").stdout == "w2 takes jobs again\n"
    assert run("admin", "workers").stdout.splitlines()[2].split()[:2] == ["w2", "serving"]
    run("admin", "drain", "w2")
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(run, "admin", "drain", "w2", "--wait")
        worker.ownership.leave("starter", "w2")
        assert waits.result().stdout == "w2 has left\n"
    late = run("admin", "undrain", "w2")
    assert (late.exit_code, "Start it again where it ran" in late.stderr) == (2, True)


def test_a_gateway_of_an_earlier_version_knows_the_list_of_workers_alone(
    run: Run, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, listed = Service.ask, list[str]()

    async def ask_an_earlier_one(self: Service, method: str, path: str, **options: Any) -> dict[str, Any]:
        if path == "/v1/admin/workers":
            listed.append(path)
        if len(listed) == 2:
            worker.ownership.leave("starter", "w2")
        return await ask(self, method, "/v1/no-such" if path == "/v1/admin/workers/w2" else path, **options)

    monkeypatch.setattr(admin_changes, "LOOK_SECONDS", 0)
    monkeypatch.setattr(Service, "ask", ask_an_earlier_one)
    worker.ownership.announce(worker.card, "w2", note=NOTE)
    done = run("admin", "drain", "w2", "--wait")
    assert (done.stdout, done.stderr, done.exit_code) == ("w2 has left\n", "", 0)


def test_a_key_that_may_change_but_not_look(run: Run, gateway: Running, worker: ScriptedWorker, token: Path) -> None:
    async def created() -> str:
        url = gateway.app.state.settings.redis_url.get_secret_value()
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
            return (await Keyring(client).create("ops", scopes=("write",), admin=True))[0]

    token.unlink()
    key = asyncio.run(created())

    def changes(*words: str) -> tuple[int, str]:
        done = run("admin", *words, "--api-key", key)
        return done.exit_code, done.stdout + done.stderr

    assert changes("pause", "starter")[0] == 0
    assert changes("resume", "starter") == (0, "starter: its jobs are taken; 0 waiting, 0 running\n")
    assert changes("drain", "w2", "--wait") == (2, "darkroom admin drain: This key does not have the scope 'read'.\n")
    worker.ownership.announce(worker.card, "w2", note=NOTE)
    assert changes("drain", "w2") == (0, "w2 takes no more jobs, and leaves with its last one\n")


def test_a_drain_of_the_last_worker_is_warned_of(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    """Another one that leaves does not count."""
    other = worker.card.model_copy(update={"name": "other"})
    worker.ownership.announce(worker.card, "w2", note=NOTE)
    for name in ("w2", "w3"):
        worker.ownership.announce(other, name, note=NOTE)
    assert run("admin", "drain", "w3").stderr == ""
    warned = run("admin", "drain", "w2")
    assert warned.exit_code == 0
    assert "warning: no other worker serves other: its jobs wait" in warned.stderr


def test_a_drain_that_somebody_takes_back_is_not_said_again(
    run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.ownership.announce(worker.card, "w2", note=NOTE)

    async def somebody_undrains(_: float) -> None:
        await asyncio.to_thread(gateway.client.post, "/v1/admin/workers/w2/undrain", json={}, headers=OPERATOR)

    monkeypatch.setattr(admin_changes, "asyncio", SimpleNamespace(sleep=somebody_undrains))
    done = run("admin", "drain", "w2", "--wait")
    assert (done.exit_code, done.stdout) == (1, "w2 takes jobs again: its drain was taken back\n")
    changes = [row["action"] for row in json.loads(run("admin", "audit", "--json").stdout)["data"]]
    assert changes == ["undrain", "drain"]
    assert not worker.ownership.announce(worker.card, "w2", note=NOTE)


def test_a_callers_jobs_are_called_off(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    running, *waiting = [send(gateway) for _ in range(3)]
    worker.claim()
    assert run("admin", "cancel", "default").exit_code == 1, "nobody said yes"
    assert gateway.client.get(f"/v1/jobs/{waiting[0]}").json()["status"] == "queued"
    unasked = run("admin", "cancel", "default", input="")
    assert unasked.exit_code == 1
    assert "--yes goes on without asking" in unasked.stderr
    some = run("admin", "cancel", "default", "--status", "queued", "--yes")
    assert (some.exit_code, some.stdout) == (0, "2 canceled, 0 stop within a step\n")
    assert run("admin", "cancel", "default", "--status", "queued", "--yes").stdout == "default has no queued jobs\n"
    rest = json.loads(run("admin", "cancel", "default", "--yes", "--json").stdout)
    assert (rest["canceled"], rest["requested"]) == ([], [running])
    nobody = run("admin", "cancel", "defualt", "--yes")
    assert (nobody.exit_code, nobody.stdout) == (0, "defualt has no unfinished jobs\n")


def test_dead_jobs(run: Run, gateway: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    first, second, gone = (kill(gateway.client, worker, redis_client) for _ in range(3))
    [_, *rows] = run("admin", "dead").stdout.splitlines()
    assert [row.split()[0] for row in rows] == [gone, second, first]
    assert all("attempts-exhausted: " in row for row in rows)
    one = run("admin", "retry", first[4:20])
    assert one.exit_code == 0, one.stderr
    assert one.stdout == run("admin", "retry", first).stdout
    assert gateway.client.get(f"/v1/jobs/{one.stdout.strip()}").json()["status"] == "queued"
    redis_client.hset(keys.JOB + gone, "model", "forgotten")
    rest = run("admin", "retry", "--all")
    assert rest.exit_code == 1
    [refused, again] = rest.stdout.splitlines()
    assert refused == f"{gone}  its model was forgotten: nobody would draw it"
    assert again.split()[0] == second
    assert run("admin", "retry").exit_code == 2


def test_the_audit(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    assert run("admin", "audit").stderr == "nothing was changed\n"
    assert run("admin", "audit", "--csv").stdout == "at,action,target,outcome,tenant,key_id,via\n"
    run("admin", "pause", "starter")
    run("admin", "pause", "starter", "--for", "30m")
    run("admin", "resume", "starter")
    [_, *rows] = run("admin", "audit").stdout.splitlines()
    assert ["resume  starter  claimed again" in row for row in rows] == [True, False, False]
    assert all("default (no key)" in row for row in rows)
    listed = json.loads(run("admin", "audit", "--json", "--limit", "2").stdout)["data"]
    told = [*csv.DictReader(io.StringIO(run("admin", "audit", "--csv", "--limit", "2").stdout))]
    assert [row["outcome"] for row in told] == [each["outcome"] for each in listed]
    assert run("admin", "audit", "--csv", "--json").exit_code == 2


def test_an_answer_that_is_none(run: Run, gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another service, or a newer one."""

    async def other(*_: Any, **__: Any) -> dict[str, Any]:
        return {"data": [{"name": 5}], "next_cursor": None}

    monkeypatch.setattr("app.cli.client.Service.ask", other)
    for command in ("queue", "workers", "models", "dead", "audit"):
        done = run("admin", command)
        assert (done.exit_code, "answers what no darkroom" in done.stderr) == (3, True)
