"""`darkroom up` with several workers: told apart when one dies, and told of when they serve. None starts here."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from app.cli.children import HOPELESS_PAUSE, Child
from app.cli.up import CannotOpen, Supervisor
from app.cli.up_settings import UpSettings
from app.cli.worker_plan import Asked, PlannedWorker
from app.cli.worker_states import SAY_SECONDS, WorkerStates
from app.contract.common.environment import WORKER_NAME
from app.contract.common.exits import CANNOT_START, DRAINED
from app.contract.messages.card import ModelCard
from app.contract.redis.ownership import Ownership

ASKED = Asked((Path("starter"), Path("starter-unclip")), ("cpu",), 3)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL_NAME", "DEFAULT_MODEL", "WORKER_METRICS_PORT", "THREADS", "UP_WORKERS"):
        monkeypatch.delenv(f"DARKROOM_{name}", raising=False)


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    """Of three workers, none of which was started."""
    found = Supervisor(data=tmp_path, asked=ASKED)
    found.children = found.children_of(found.planned(UpSettings()))
    found.lost_workers.open("redis://127.0.0.1:1")
    (tmp_path / "logs").mkdir()
    return found


def test_each_has_a_process_and_the_first_is_meant_by_requests_that_name_none(supervisor: Supervisor) -> None:
    names = ["gateway", "worker", "worker-starter-unclip", "worker@2", "webhooks"]
    assert [child.name for child in supervisor.children] == names
    assert [child.process_name for child in supervisor.children] == ["gateway", *["worker"] * 3, "webhooks"]
    assert supervisor.environment["DARKROOM_DEFAULT_MODEL"] == "starter"
    own = [supervisor.own_of(worker) for worker in supervisor.planned(UpSettings())]
    assert len({each[WORKER_NAME] for each in own}) == 3
    assert [each["DARKROOM_MODEL"] for each in own] == ["starter", "starter-unclip", "starter"]


def died(child: Child, code: int) -> Child:
    """As if it had been started and had ended so."""
    child.last_code, child.deaths = code, child.deaths + 1
    child.log.write_text("darkroom worker: the folder is gone\n")
    child._log_began = 0
    return child


def test_one_that_cannot_start_ends_nobody_elses_service(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, first, other, _, _ = supervisor.children
    with pytest.raises(CannotOpen, match="worker-starter-unclip cannot start:\ndarkroom worker: the folder is gone"):
        supervisor.judge(died(other, CANNOT_START))  # nothing was served yet: a slip that is told at once
    supervisor.ready = True
    supervisor.judge(other)
    said = capsys.readouterr().err
    assert "worker-starter-unclip cannot start; the others go on, and it is tried again in 300 s:" in said
    assert "the folder is gone" in said
    with pytest.raises(CannotOpen, match="gateway cannot start"):
        supervisor.judge(died(gateway, CANNOT_START))
    supervisor.judge(died(first, 1))
    copy = supervisor.workers["worker@2"]
    supervisor.judge(died(copy, CANNOT_START))
    supervisor.judge(died(copy, DRAINED))
    with pytest.raises(CannotOpen, match="worker cannot start"):
        supervisor.judge(died(first, CANNOT_START))  # nobody is left: the third was told to leave


def test_who_cannot_start_is_not_tried_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        def poll(self) -> int:
            return CANNOT_START

    started = []
    child = Child("worker", logs=tmp_path)
    monkeypatch.setattr("app.cli.children.subprocess.Popen", lambda *_, **__: started.append(1) or Ended())
    child.start_when_due(100.0, {}, keep=[0])
    assert child.note_death(101.0)
    child.start_when_due(101.0 + HOPELESS_PAUSE - 1, {}, keep=[0])
    assert len(started) == 1
    child.start_when_due(101.0 + HOPELESS_PAUSE, {}, keep=[0])
    assert len(started) == 2


def test_who_was_drained_is_not_started_again(
    supervisor: Supervisor, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before all were ever ready, and as the only one of its model."""
    _, first, *_ = supervisor.children
    for _ in range(3):
        supervisor.judge(died(first, DRAINED))
    assert "worker was drained, and stays away until the next `" in capsys.readouterr().err
    monkeypatch.setattr("app.cli.children.subprocess.Popen", lambda *_, **__: pytest.fail("it was started"))
    first.start_when_due(1e9, {}, keep=[0])


WORKERS = [
    PlannedWorker("worker", "starter", Path("starter"), "cuda:0", None, True),
    PlannedWorker("worker-other", "other", Path("other"), "cuda:1", None, False),
]


def test_it_is_said_when_each_serves_and_what_it_is_at_until_then(redis_client: redis.Redis, card: ModelCard) -> None:
    said: list[str] = []
    states, ownership = WorkerStates(WORKERS, say=said.append), Ownership(redis_client)

    def look(now: float) -> list[str]:
        states.look(now, lambda: redis_client)
        return [said.pop(0) for _ in list(said)]

    states.began("worker", "w1", 0.0)
    states.began("worker-other", "w2", 0.0)
    assert look(1.0) == []
    ownership.announce(card.model_copy(update={"name": "starter"}), "w1")
    assert look(1.5) == [], "asked once a second at most"
    assert not states.has_served("starter")
    assert look(2.0) == ["starter on cuda:0 is ready (worker)"]
    assert (states.has_served("starter"), states.has_served("other")) == (True, False)
    ownership.starting("w2", "warming up, 4 rows measured")
    late = SAY_SECONDS + 1
    assert look(late) == ["other on cuda:1 is not ready yet (worker-other): warming up, 4 rows measured"]
    assert look(late + 2) == []
    ownership.starting("w2", "")
    assert look(2 * late + 1) == ["other on cuda:1 is not ready yet (worker-other): it begins"]
    states.ended("worker-other")
    ownership.announce(card.model_copy(update={"name": "other"}), "w3")
    assert look(3 * late) == []
    states.began("worker-other", "w3", 3 * late)
    assert look(3 * late + 2) == ["other on cuda:1 is ready (worker-other)"]

    def away() -> redis.Redis:
        raise redis.ConnectionError

    states.look(4 * late, away)
    states.began("worker", "w4", 4 * late)
    states.look(5 * late, away)
    assert said == []


def test_of_workers_whose_models_have_no_plain_names_the_service_itself_is_told() -> None:
    """Of scorers alone: `up` would wait for ever for a model that is called nothing."""
    workers = [PlannedWorker(name, "", None, "cpu", 4, True, (Path("scorers"),)) for name in ("worker", "worker@2")]
    states = WorkerStates(workers)
    assert states.has_served("")
    states.began("worker", "w1", 0.0)
    states.look(1e9, lambda: pytest.fail("nobody has to be asked"))


def test_of_a_single_worker_the_service_itself_is_told() -> None:
    states = WorkerStates(WORKERS[:1])
    assert states.has_served("starter")
    states.began("worker", "w1", 0.0)
    states.look(1e9, lambda: pytest.fail("nobody has to be asked"))
