"""What an operator sees: everybody's queue, workers, models and dead jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx2
import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys, overview
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_jobs import PARAMETERS
from tests.app.test_keys import Made, locked, made  # noqa: F401
from tests.app.test_refusals import problem

pytestmark = pytest.mark.usefixtures("as_operator")

NOTE = WorkerNote(
    version="0.1.0", device="cuda:0 (H100)", seats=4, free_seats=1, jobs=2, rows_per_second=31.5, activity="denoise",
    uptime_seconds=60,
)  # fmt: skip


def ask(client: httpx2.Client, path: str, headers: dict[str, str] | None = None, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/admin/{path}", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pages(
    client: httpx2.Client, path: str, headers: dict[str, str] | None = None, **query: Any
) -> list[dict[str, Any]]:
    """All entries, page by page."""
    found, cursor = [], None
    while True:
        answer = ask(client, path, headers, **query, **({"cursor": cursor} if cursor else {}))
        found += answer["data"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


def test_the_queue_by_caller(locked: Running, made: Made, worker: ScriptedWorker) -> None:  # noqa: F811
    ops, ann, bob = made("ops", admin=True), made("ann"), made("bob")
    first = locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    worker.claim()
    second = locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    dear = PARAMETERS | {"num_images": 4}
    others = [locked.client.post("/v1/jobs", json=dear, headers=bob).json() for _ in range(2)]
    bobs, anns = ask(locked.client, "queue", ops)["data"]
    assert (bobs["tenant"], bobs["waiting"], bobs["running"], bobs["running_cost"]) == ("bob", 2, 0, 0)
    assert (anns["tenant"], anns["waiting"], anns["running"], anns["model"]) == ("ann", 1, 1, "starter")
    assert anns["running_cost"] == anns["waiting_cost"] > 0
    assert bobs["waiting_cost"] == pytest.approx(8 * anns["waiting_cost"])
    assert bobs["oldest_waiting_at"] == others[0]["created_at"]
    assert anns["oldest_waiting_at"] == second["created_at"] > first["created_at"]
    assert ask(locked.client, "queue", ops, model="nobodys")["data"] == []
    assert len(ask(locked.client, "queue", ops, model="starter")["data"]) == 2


def test_a_long_queue_is_counted_in_pieces(
    locked: Running,  # noqa: F811
    made: Made,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "TALLIED_AT_ONCE", 2)
    ops = made("ops", admin=True)
    callers = {name: made(name) for name in ("ann", "bob", "cid")}
    for number, headers in enumerate(callers.values(), start=1):
        for _ in range(number):
            locked.client.post("/v1/jobs", json=PARAMETERS, headers=headers)
    found = pages(locked.client, "queue", ops, limit=1)
    assert [(each["tenant"], each["waiting"]) for each in found] == [("cid", 3), ("bob", 2), ("ann", 1)]


def test_workers(client: httpx2.Client, worker: ScriptedWorker, card: ModelCard, redis_client: redis.Redis) -> None:
    other = card.model_copy(update={"name": "other"})
    worker.ownership.announce(card, "w2", ready_in=3.0, note=NOTE)
    worker.ownership.announce(other, "w2", note=NOTE)
    worker.ownership.starting("w3", "loading the model")
    old, new, starts = pages(client, "workers", limit=1)
    assert [ask(client, f"workers/{name}") for name in ("w1", "w2", "w3")] == [old, new, starts], "each by its name"
    assert (old["name"], old["state"], old["models"]) == ("w1", "serving", ["starter"])
    assert (old["version"], old["free_seats"]) == (None, None), "one of an earlier release says nothing of itself"
    assert (new["name"], new["models"], new["in_memory"]) == ("w2", ["other", "starter"], ["other"])
    assert {name: new[name] for name in WorkerNote.model_fields} == NOTE.model_dump()
    assert (starts["name"], starts["state"], starts["activity"]) == ("w3", "starting", "loading the model")
    assert all(datetime.fromisoformat(each["last_beat_at"]) for each in (old, new, starts))
    assert [each["name"] for each in ask(client, "workers", model="other")["data"]] == ["w2"]
    worker.ownership.leave("other", "w2")
    worker.ownership.leave("starter", "w2")
    redis_client.zadd(keys.ALIVE + "starter", {"w1": 1})
    assert [each["name"] for each in ask(client, "workers")["data"]] == ["w3"], "who is silent or has left is not there"
    for name in ("w1", "w2"):
        gone = client.get(f"/v1/admin/workers/{name}")
        assert (gone.status_code, gone.json()["type"].rpartition("/")[2]) == (404, "worker-not-found")


def test_models(client: httpx2.Client, worker: ScriptedWorker) -> None:
    for _ in range(3):
        client.post("/v1/jobs", json=PARAMETERS)
    worker.claim()
    [model] = ask(client, "models")["data"]
    assert (model["id"], model["state"], model["workers"]) == ("starter", "ready", 1)
    assert (model["waiting"], model["running"], model["seats"]) == (2, 1, worker.card.seats)
    assert model["oldest_waiting_seconds"] >= model["unserved_seconds"] > 0


def test_dead_jobs(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    ids = [kill(client, worker, redis_client) for _ in range(3)]
    found = pages(client, "dead", limit=2)
    assert [each["id"] for each in found] == ids[::-1]
    assert found[0]["error"]["slug"] == "attempts-exhausted"
    assert (found[0]["tenant"], found[0]["attempts"]) == ("default", 1)
    assert PARAMETERS["prompt"] not in str(found)


def kill(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> str:
    """The id of a job whose last attempt lost its worker."""
    job_id: str = client.post("/v1/jobs", json=PARAMETERS).json()["id"]
    redis_client.hset(keys.JOB + job_id, "failures", keys.MAX_ATTEMPTS - 1)
    worker.claim()
    assert worker.ownership.worker_lost("w1") == (0, 1)
    return job_id


@pytest.mark.parametrize("path", ["queue", "workers", "dead"])
@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "W10"}])
def test_what_cannot_be_a_page(client: httpx2.Client, path: str, query: dict[str, Any]) -> None:
    answer = client.get(f"/v1/admin/{path}", params=query)
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["parameter"] == next(iter(query))
