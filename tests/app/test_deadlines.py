"""A job that says until when it is wanted, and one that can wait: what a client sends and sees."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx2
import pytest
import redis

from app.contract.redis import keys
from tests.app.conftest import ScriptedWorker
from tests.app.test_jobs import send
from tests.app.test_metrics import scrape
from tests.app.test_refusals import problem
from tests.waiting import until


def look(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = client.get(f"/v1/jobs/{job['id']}").json()
    return seen


def test_a_deadline_is_told_as_a_moment_and_at_the_end_whether_it_was_met(
    client: httpx2.Client, worker: ScriptedWorker
) -> None:
    job = send(client, {"prompt": "a circle", "deadline": 7_200})
    assert (job["priority"], job["deadline_met"]) == ("interactive", None)
    accepted, due = (datetime.fromisoformat(job[name]) for name in ("created_at", "deadline_at"))
    assert (due - accepted).total_seconds() == 7_200
    worker.succeed(worker.claim())
    assert until(lambda: look(client, job)["deadline_met"])
    assert scrape(client)["darkroom_deadlines_total", (("model", "starter"), ("outcome", "met"))] == 1


def test_a_job_that_can_wait_goes_behind_the_callers_others(client: httpx2.Client, worker: ScriptedWorker) -> None:
    batch = send(client, {"prompt": "a circle", "priority": "batch"})
    other = send(client, {"prompt": "a circle"})
    assert [look(client, job)["queue"]["position"] for job in (batch, other)] == [1, 0]
    assert (batch["priority"], batch["deadline_at"], batch["deadline_met"]) == ("batch", None, None)
    assert [worker.claim().id for _ in range(2)] == [other["id"], batch["id"]]


def test_a_deadline_that_will_be_missed_is_taken_and_said(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    redis_client.hset(keys.PACE + "starter", mapping={"job_ms": 60_000, "seat_ms": 60_000})
    job = until(lambda: (sent := send(client, {"prompt": "a circle", "deadline": 5}))["warnings"] and sent)
    assert job["warnings"] == ["At the present pace it will be over in about 60 s, after its deadline."]
    assert send(client, {"prompt": "a circle", "deadline": 7_200})["warnings"] == []


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"deadline": 0}, "/deadline"),
        ({"deadline": 1e9}, "/deadline"),
        ({"deadline": "soon"}, "/deadline"),
        ({"priority": "now"}, "/priority"),
        ({"priority": "batch", "deadline": 5}, "/deadline"),
    ],
)
def test_what_is_no_deadline_is_refused_where_it_stands(
    client: httpx2.Client, worker: ScriptedWorker, wrong: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "a circle"} | wrong)
    assert problem(answer) == (422, "invalid-request")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
