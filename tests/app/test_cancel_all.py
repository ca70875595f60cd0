"""Calling many jobs off in one request."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from app.routes import jobs as routes
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY, locked  # noqa: F401
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_refusals import problem


def cancel(client: httpx2.Client, **wanted: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs/cancel", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def statuses(client: httpx2.Client) -> dict[str, str]:
    return {job["id"]: job["status"] for job in client.get("/v1/jobs", params={"limit": 100}).json()["data"]}


def test_all(client: httpx2.Client, worker: ScriptedWorker) -> None:
    done, running, *waiting = [send(client)["id"] for _ in range(5)]
    worker.succeed(worker.claim())
    worker.claim()
    assert cancel(client) == {
        "object": "cancellation",
        "canceled": waiting[::-1],
        "requested": [running],
        "has_more": False,
    }
    assert statuses(client) == {done: "succeeded", running: "running", **dict.fromkeys(waiting, "canceled")}
    again = cancel(client)
    assert (again["canceled"], again["requested"]) == ([], [running]), "told again, until its worker lets go"


def test_of_a_status(client: httpx2.Client, worker: ScriptedWorker) -> None:
    running, waiting = (send(client)["id"] for _ in range(2))
    worker.claim()
    assert cancel(client, status="running")["requested"] == [running]
    assert statuses(client)[waiting] == "queued"
    assert cancel(client, status="queued") == {
        "object": "cancellation",
        "canceled": [waiting],
        "requested": [],
        "has_more": False,
    }


def test_with_notes(client: httpx2.Client) -> None:
    """All of them must be there, with exactly these values."""
    notes = [{"order": "17"}, {"order": "17", "page": "1"}, {"order": "170"}, {"page": "1"}, {}]
    ids = [client.post("/v1/jobs", json=PARAMETERS | {"metadata": each}).json()["id"] for each in notes]
    assert cancel(client, metadata={"order": "17", "page": "1"})["canceled"] == [ids[1]]
    assert cancel(client, metadata={"order": "17"})["canceled"] == [ids[0]]
    assert cancel(client, metadata={"order": "zanzibar"})["canceled"] == []
    assert sorted(each for each, status in statuses(client).items() if status == "queued") == sorted(ids[2:])


def test_in_pieces(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "CANCELED_AT_MOST", 2)
    ids = [send(client)["id"] for _ in range(5)]
    answers = [cancel(client) for _ in range(3)]
    assert [answer["has_more"] for answer in answers] == [True, True, False]
    assert [each for answer in answers for each in answer["canceled"]] == ids[::-1]


def test_an_answer_of_redis_that_was_lost(client: httpx2.Client, running: Running, monkeypatch: Any) -> None:
    """The client library says it again: the second answer says that it is over, and the caller hears that it is."""
    store, once = running.app.state.services.jobs, type(running.app.state.services.jobs).cancel_all

    async def twice(ids: list[str], tenant: str) -> list[Any]:
        await once(store, ids, tenant)
        return await once(store, ids, tenant)

    monkeypatch.setattr(store, "cancel_all", twice)
    job = send(client)["id"]
    assert cancel(client)["canceled"] == [job]


def test_only_ones_own(locked: httpx2.Client) -> None:  # noqa: F811
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER_KEY))
    job = locked.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    assert locked.post("/v1/jobs/cancel", json={}, headers=bob).json()["canceled"] == []
    assert locked.get(job["urls"]["self"], headers=ann).json()["status"] == "queued"


@pytest.mark.parametrize("body", [{"status": "succeeded"}, {"ids": []}, {"metadata": {"a": 1}}, [], None])
def test_what_cannot_be_meant(client: httpx2.Client, body: Any) -> None:
    send(client)
    assert problem(client.post("/v1/jobs/cancel", json=body)) == (422, "invalid-request")
    assert set(statuses(client).values()) == {"queued"}


def test_a_form_of_a_foreign_page_calls_nothing_off(client: httpx2.Client) -> None:
    """Without keys, a page elsewhere could send a POST without a body, or one of a form, without being asked first."""
    send(client)
    assert problem(client.post("/v1/jobs/cancel")) == (422, "invalid-request")
    assert problem(client.post("/v1/jobs/cancel", data={"a": "b"})) == (415, "unsupported-media-type")
    assert problem(client.post("/v1/jobs/cancel", content=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
    assert set(statuses(client).values()) == {"queued"}
