"""`darkroom jobs`: lists, one job, cancel, delete, watch; and following where streams do not get through."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis

from app.cli import following
from app.cli.client import CommandError, Service
from app.cli.job_commands import State
from app.cli.jobs import _print_list
from app.cli.tables import print_facts
from app.contract.messages.events import Status
from app.contract.redis import keys
from app.contract.redis.ownership import Claim
from tests.app.conftest import Running, ScriptedWorker
from tests.cli.conftest import Hand, Run, begun, no_service
from tests.waiting import WAIT_SECONDS, until


@contextlib.contextmanager
def meanwhile(act: Callable[[], Any]) -> Iterator[None]:
    """Try it in another thread, again and again until it was done."""

    def keep_trying() -> None:
        while not over.is_set() and act() in (None, 0, False, []):
            over.wait(0.005)

    over, thread = threading.Event(), threading.Thread(target=keep_trying)
    thread.start()
    yield
    over.set()
    thread.join(WAIT_SECONDS)


NOBODY = "job_" + "0" * 24


def send(gateway: Running, prompt: str, **parameters: Any) -> str:
    answer = gateway.client.post("/v1/jobs", json={"prompt": prompt, **parameters})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def shown(gateway: Running, job_id: str) -> dict[str, Any]:
    return dict(gateway.client.get(f"/v1/jobs/{job_id}").json())


def test_the_states_are_the_contracts() -> None:
    assert [state.value for state in State] == [status.value for status in Status]


def test_list_and_show(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    nothing = run("jobs", "list")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "darkroom generate" in nothing.stderr
    done = send(gateway, "a red circle", num_images=2, metadata={"order": "17"})
    worker.succeed(worker.claim())
    waiting = [send(gateway, f"evil \x1b[31m {number}") for number in range(2)]
    table = run("jobs", "list", "--limit", "2")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["job", waiting[1], waiting[0]]
    assert "queued, 1 before it" in table.stdout
    assert "\x1b" not in table.stdout
    assert "--limit" in table.stderr
    listed = json.loads(run("jobs", "list", "--status", "succeeded", "--json").stdout)
    assert [job["id"] for job in listed["data"]] == [done]
    assert json.loads(run("jobs", "list", "--json").stdout).keys() == {"object", "data", "next_cursor"}
    facts = run("jobs", "show", done).stdout
    for fact in ("a red circle", "succeeded", "cut", "metadata order", "17", "/pictures/"):
        assert fact in facts
    whole = json.loads(run("jobs", "show", done, "--json").stdout)
    assert whole.keys() == shown(gateway, done).keys()


WAITS = {"status": "queued", "queue": {"workers": 0}}


def listed_on_a_terminal(columns: int, *jobs: dict[str, Any]) -> list[str]:
    """What `darkroom jobs list` prints of these jobs on a terminal so wide."""
    terminal = io.StringIO()
    usual = {
        "status": "succeeded",
        "created_at": "2026-11-28T01:03:43Z",
        "model": "starter",
        "timings": {},
        "images": [],
    }
    asked = {"input": {"prompt": "a red circle on a blue background", "num_images": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "isatty", lambda: True)
        patch.setattr("sys.stdout", terminal)
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("LINES", "24")
        patch.setenv("TERM", "dumb")  # no colours
        _print_list([usual | asked | job for job in jobs], more=False)
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (30, "job status prompt"),
        (60, "job status prompt"),
        (80, "job status created seconds prompt"),
        (120, "job status created seconds pictures prompt"),
    ],
)
def test_a_line_a_job_on_a_terminal(columns: int, named: str) -> None:
    """Two ids alike in their first digits are shown as far as they differ."""
    ids = [f"job_{number:08x}{'0' * 16}" for number in (0x12345678, 0xABCDEF00)]
    head, *lines = listed_on_a_terminal(columns, {"id": ids[0]} | WAITS, {"id": ids[1]})
    assert head.split() == named.split()
    assert [line.split()[0] for line in lines] == ["job_12345678", "job_abcdef00"]
    assert all(len(line) <= columns and "a red" in line for line in lines)
    _, *alike = listed_on_a_terminal(columns, {"id": ids[0]}, {"id": f"{ids[0][:15]}1{ids[0][16:]}"})
    assert [line.split()[0] for line in alike] == ["job_123456780000", "job_123456780001"]


def test_facts_stand_in_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    facts = [("job", "one"), ("classifier_free_guidance", "two")]
    for longer, columns in ([], [25, 25]), ([("m" * 40, "three")], [33, 33, 41]):
        print_facts(facts + longer)
        assert [line.rindex(" ") + 1 for line in capsys.readouterr().out.splitlines()] == columns


def test_more_than_a_page(run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.jobs.PAGE", 2)
    ids = [send(gateway, f"number {number}") for number in range(5)]
    listed = json.loads(run("jobs", "list", "--limit", "5", "--json").stdout)["data"]
    assert [job["id"] for job in listed] == ids[::-1]


def test_cancel_and_delete(run: Run, gateway: Running, worker: ScriptedWorker) -> None:
    first, second = send(gateway, "a"), send(gateway, "b")
    canceled = run("jobs", "cancel", first, second)
    assert (canceled.exit_code, canceled.stdout) == (0, f"{first}  canceled\n{second}  canceled\n")
    assert json.loads(run("jobs", "cancel", first, "--json").stdout)["status"] == "canceled"
    assert run("jobs", "delete", first).stdout == f"{first}  deleted\n"
    assert json.loads(run("jobs", "delete", second, "--json").stdout) == {"id": second, "deleted": True}
    assert gateway.client.get(f"/v1/jobs/{first}").status_code == 404
    over = send(gateway, "c")
    worker.succeed(worker.claim())
    late = run("jobs", "cancel", over)
    assert (late.exit_code, late.stdout) == (2, "")
    assert "nothing left to cancel" in late.stderr


def test_cancel_all(run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more than one answer of the API calls off."""
    monkeypatch.setattr("app.routes.jobs.CANCELED_AT_MOST", 2)
    running = send(gateway, "a")
    claim = worker.claim()
    waiting = [send(gateway, f"number {number}") for number in range(5)]
    queued = run("jobs", "cancel", "--all", "--status", "queued")
    assert queued.exit_code == 0, queued.stderr
    assert sorted(queued.stdout.splitlines()) == sorted(f"{job_id}  canceled" for job_id in waiting)
    rest = run("jobs", "cancel", "--all")
    assert (rest.exit_code, rest.stdout) == (0, f"{running}  stops within a step\n")
    assert worker.ownership.canceled(claim)
    nothing = run("jobs", "cancel", "--all")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "no job of yours is unfinished" in nothing.stderr
    told = json.loads(run("jobs", "cancel", "--all", "--json").stdout)
    assert told == {"object": "cancellation", "canceled": [], "requested": [], "has_more": False}


def test_cancel_all_does_not_wait_for_workers_that_keep_theirs(
    run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running jobs of more than one answer: those that were told are in the way of the others until they end."""
    monkeypatch.setattr("app.routes.jobs.CANCELED_AT_MOST", 1)
    for prompt in ("a", "b"):
        send(gateway, prompt)
        worker.claim()
    done = run("jobs", "cancel", "--all")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert "there are more" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the jobs, or say --all"),
        (("--all", NOBODY), "name the jobs, or say --all"),
        ((NOBODY, "--status", "queued"), "--status goes with --all"),
        (("--all", "--status", "succeeded"), "is not one of queued, running"),
    ],
)
def test_what_cancel_is_to_call_off(run: Run, worker: ScriptedWorker, arguments: tuple[str, ...], said: str) -> None:
    done = run("jobs", "cancel", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    # A usage error stands in a box, which may break it anywhere.
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["show", "cancel", "delete", "watch"])
def test_a_job_that_is_not_there(run: Run, worker: ScriptedWorker, command: str) -> None:
    for job_id, words in (("../keys", "../keys cannot be read"), ("keys", "is not a job's id"), (NOBODY, "")):
        done = run("jobs", command, job_id)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    with no_service() as url:
        assert run("jobs", command, NOBODY, "--url", url).exit_code == 3


def test_watch_one(run: Run, gateway: Running, hand: Hand) -> None:
    job_id = send(gateway, "wait for it")
    with meanwhile(lambda: hand.claims and gateway.app.state.services.feed.listeners and (hand.go.set() or True)):
        told = run("jobs", "watch", job_id, "--json")
    assert told.exit_code == 0, told.stderr
    story = [json.loads(line) for line in told.stdout.splitlines()]
    assert {job["id"] for job in story} == {job_id}
    assert story[-1]["status"] == "succeeded"
    assert [job for job in story if job["progress"]["step"] == 3], "progress is told"
    assert run("jobs", "watch", job_id).stdout == f"{job_id}  succeeded  wait for it\n"
    failed = send(gateway, "fail")
    done = run("jobs", "watch", failed)
    assert done.exit_code == 1
    assert f"{failed}  failed (Values overflowed.)  fail" in done.stdout


def test_watch_all(run: Run, gateway: Running, hand: Hand) -> None:
    assert "no job is queued or running" in run("jobs", "watch").stderr
    ids = [send(gateway, f"wait {number}") for number in range(3)] + [send(gateway, "fail")]
    with meanwhile(lambda: hand.claims and gateway.app.state.services.feed.listeners and (hand.go.set() or True)):
        done = run("jobs", "watch")
    assert done.exit_code == 0, done.stderr
    ended = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if "running" not in line}
    assert ended.keys() == set(ids) or set(ids) - ended.keys() <= {ids[-1]}, "the last may have failed before"
    assert {ended[job_id] for job_id in ids[:3]} == {"succeeded"}


def test_ctrl_c_ends_the_watching_only(gateway: Running, hand: Hand) -> None:
    job_id = send(gateway, "wait")
    with begun(gateway, "jobs", "watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(job_id)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, said) == (130, "")
    until(lambda: shown(gateway, job_id)["status"] == "running")


def test_a_job_that_is_begun_between_two_looks_is_watched(
    run: Run, gateway: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look is for what waits, the other for what runs."""
    job_id, claims, look = send(gateway, "a"), list[Claim](), Service.jobs

    async def jobs(self: Service, **options: Any) -> Any:
        page = await look(self, **options)
        if not claims:
            claims.append(worker.claim())
        return page

    monkeypatch.setattr(Service, "jobs", jobs)
    with meanwhile(lambda: claims and gateway.app.state.services.feed.listeners and worker.succeed(claims[0])):
        done = run("jobs", "watch")
    assert done.stdout.splitlines()[-1].startswith(f"{job_id}  succeeded"), done.stderr


async def no_events(service: Any, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """What a proxy that lets no stream through leaves of it."""
    for nothing in ():
        yield nothing


def test_without_a_stream_it_asks(run: Run, gateway: Running, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_events", no_events)
    job_id = send(gateway, "wait for it")
    hand.go.set()
    told = run("jobs", "watch", job_id, "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1])["status"] == "succeeded"


@pytest.fixture
def away_twice(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A service that gives no stream, and does not answer the first two times a job is asked for with a wait."""
    tries: list[str] = []
    real = Service.answer

    async def answer(self: Service, method: str, path: str, **options: Any) -> Any:
        if "wait" in options.get("params", {}):
            tries.append(path)
            if len(tries) <= 2:
                raise CommandError("no service", 3)
        return await real(self, method, path, **options)

    monkeypatch.setattr(following, "_events", no_events)
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(Service, "answer", answer)
    return tries


def test_a_service_that_is_away_for_a_moment(
    run: Run, gateway: Running, hand: Hand, away_twice: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = send(gateway, "wait for it")
    with meanwhile(lambda: len(away_twice) > 2 and (hand.go.set() or True)):
        watched = run("jobs", "watch", job_id)
    assert (watched.exit_code, watched.stdout.splitlines()[-1].split()[1]) == (0, "succeeded"), watched.stderr
    assert len(away_twice) > 2
    away_twice.clear()
    monkeypatch.setattr(following, "AWAY_SECONDS", -1.0)
    gave_up = run("generate", "wait")
    assert gave_up.exit_code == 3
    assert "the job goes on as job_" in gave_up.stderr


def test_a_job_that_is_deleted_while_it_is_watched(
    run: Run, gateway: Running, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deleted(service: Any, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        await service.answer("DELETE", f"/v1/jobs/{job_id}")
        for nothing in ():
            yield nothing

    monkeypatch.setattr(following, "_events", deleted)
    job_id = send(gateway, "wait")
    done = run("jobs", "watch", job_id)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, f"{job_id}  deleted  wait")


def test_the_dead_as_json(run: Run, gateway: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    job_id = send(gateway, "a killer")
    worker.fail(worker.claim(), "attempts-exhausted")
    redis_client.zadd(keys.DEAD, {job_id: 1})
    listed = json.loads(run("jobs", "dead", "--json").stdout)
    assert [(job["tenant"], job["id"], job["status"]) for job in listed["data"]] == [("default", job_id, "failed")]
    assert job_id in run("jobs", "dead").stdout
    again = json.loads(run("jobs", "retry", job_id, "--json").stdout)
    assert (again["status"], again["input"]) == ("queued", listed["data"][0]["input"])
