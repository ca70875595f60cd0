"""What an operator changes over HTTP: each once however often it is said, and each a line of the audit."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import httpx2
import pytest
import redis
import structlog
from opentelemetry.sdk.trace import TracerProvider

from app.admin import changes
from app.contract.redis import keys
from app.contract.redis.scripts import source
from app.contract.redis.store import JobStore
from app.edge.tracing import note_change
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_admin import NOTE, ask, kill, pages
from tests.app.test_admin_access import OPERATORS
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_keys import Made, locked, made  # noqa: F401
from tests.app.test_refusals import problem
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("as_operator")


def change(client: httpx2.Client, path: str, headers: Any = None, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/admin/{path}", json=body, headers=headers)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def lines(client: httpx2.Client, headers: Any = None) -> list[tuple[str, str, str]]:
    return [(each["action"], each["target"], each["outcome"]) for each in pages(client, "audit", headers)]


def paused(client: httpx2.Client) -> dict[str, Any] | None:
    return client.get("/v1/models/starter").json()["paused"]


def test_nobody_claims_of_a_paused_model(client: httpx2.Client, worker: ScriptedWorker) -> None:
    before = send(client)
    running = worker.claim()
    model = change(client, "models/starter/pause", reason="new weights")
    pause = model["paused"]
    assert (pause["reason"], pause["accepts"], pause["until"]) == ("new weights", True, None)
    job = send(client)
    assert worker.ownership.claim("starter", "w1") is None
    shown = client.get(job["urls"]["self"]).json()
    assert (shown["status"], shown["queue"]["eta_seconds"]) == ("queued", None), "nobody can say"
    assert "The operator has paused starter (new weights)" in shown["warnings"][0]
    worker.succeed(running)
    assert client.get(before["urls"]["self"]).json()["status"] == "succeeded", "what runs goes on to its end"
    again = change(client, "models/starter/pause", reason="still")
    assert again["paused"]["since"] == model["paused"]["since"]
    assert change(client, "models/starter/resume")["paused"] is None
    assert change(client, "models/starter/resume")["paused"] is None
    assert worker.claim().id == job["id"]
    assert paused(client) is None
    outcomes = ["claimed again", "jobs come in and wait: still", "jobs come in and wait: new weights"]
    assert [line for _, _, line in lines(client)] == outcomes, "a resume that changed nothing is not noted"


TWO_HOURS = 7_200
"""No machine stands still for half of it."""


def test_a_model_that_takes_no_jobs(client: httpx2.Client, worker: ScriptedWorker) -> None:
    failed = send(client)
    worker.fail(worker.claim())
    known = client.post("/v1/jobs", json=PARAMETERS, headers={"Idempotency-Key": "once"}).json()
    change(client, "models/starter/pause", accepts=False, seconds=TWO_HOURS, reason="we move")
    answer = client.post("/v1/jobs", json=PARAMETERS)
    assert problem(answer) == (503, "model-paused")
    assert answer.headers["retry-after"] == "120", "the end is known, and no client sleeps for so long"
    assert "(we move)" in answer.json()["detail"]
    assert "takes no jobs" in answer.json()["detail"]
    assert problem(client.post(f"/v1/jobs/{failed['id']}/retry")) == (503, "model-paused")
    again = client.post("/v1/jobs", json=PARAMETERS, headers={"Idempotency-Key": "once"})
    assert again.json()["id"] == known["id"], "what was accepted before is not denied"
    for path, body in (
        ("/v1/images/generations", {}),
        ("/v1/models/darkroom/starter/predictions", {"input": PARAMETERS}),
    ):
        refused = client.post(path, json=body or {"prompt": "a red circle"})
        assert refused.status_code == 503, path
    change(client, "models/starter/resume")
    assert client.post("/v1/jobs", json=PARAMETERS).status_code == 202, "at once, also at this gateway"


def test_who_would_wait_with_a_connection_is_told_at_once(client: httpx2.Client) -> None:
    """OpenAI's clients see nothing until there is a picture."""
    change(client, "models/starter/pause")
    refused = client.post("/v1/images/generations", json={"prompt": "a red circle"})
    assert refused.status_code == 503
    assert "lets jobs wait" in refused.json()["error"]["message"]


def test_a_pause_ends_by_itself(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    send(client)
    worker.succeed(worker.claim())
    assert change(client, "models/starter/pause", seconds=TWO_HOURS)["paused"]["until"] is not None
    job = send(client)
    assert client.get(job["urls"]["self"]).json()["queue"]["eta_seconds"] > TWO_HOURS / 2, (
        "an end that is known can be counted on"
    )
    assert TWO_HOURS / 2 < redis_client.ttl(keys.PAUSED + "starter") <= TWO_HOURS
    redis_client.pexpire(keys.PAUSED + "starter", 1)
    until(lambda: worker.ownership.claim("starter", "w1"))
    change(client, "models/starter/pause", seconds=TWO_HOURS)
    change(client, "models/starter/pause")
    assert redis_client.pttl(keys.PAUSED + "starter") == -1, "until somebody ends it"
    assert redis_client.hexists(keys.PAUSED + "starter", "until_ms") is False


def test_a_forgotten_model_is_not_paused_when_it_comes_back(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    change(client, "models/starter/pause")
    worker.ownership.leave("starter", "w1")
    assert redis_client.register_script(source("forget_model"))(args=["starter", ""])[0] == "forgotten"
    worker.announce()
    send(client)
    assert worker.claim()


@pytest.mark.parametrize(
    "body",
    [
        {"accepts": "no"},
        {"seconds": 0},
        {"seconds": 1e9},
        {"reason": "x" * 201},
        {"reason": "a\nb"},
        {"until": 5},
        [],
        None,
    ],
)
def test_what_is_no_pause(client: httpx2.Client, body: Any) -> None:
    assert problem(client.post("/v1/admin/models/starter/pause", json=body)) == (422, "invalid-request")
    assert paused(client) is None


@pytest.mark.parametrize("way", ["pause", "resume"])
def test_a_model_that_is_not_there(client: httpx2.Client, way: str) -> None:
    assert problem(client.post(f"/v1/admin/models/nobodys/{way}", json={})) == (404, "model-not-found")


@pytest.mark.parametrize("path", [path for method, path in OPERATORS if method == "POST"])
def test_a_form_of_a_foreign_page_changes_nothing(client: httpx2.Client, path: str) -> None:
    """On a service without keys a page elsewhere could send a POST without a body, or a form, without being asked."""
    target = re.sub(r"\{[^}]*\}", "starter", path)
    assert problem(client.post(target)) == (422, "invalid-request")
    assert problem(client.post(target, data={"a": "b"})) == (415, "unsupported-media-type")
    assert problem(client.post(target, content=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
    assert lines(client) == []
    assert paused(client) is None


def test_a_worker_is_told_to_leave(client: httpx2.Client, worker: ScriptedWorker, card: Any) -> None:
    assert worker.ownership.announce(card, "w2", note=NOTE) is False
    assert change(client, "workers/w2/drain") == {"object": "drain", "worker": "w2", "state": "draining"}
    assert worker.ownership.announce(card, "w2", note=NOTE) is True, "it hears of it with every beat"
    [_, seen] = ask(client, "workers")["data"]
    assert (seen["state"], bool(seen["draining_since"])) == ("draining", True)
    assert change(client, "workers/w2/drain")["state"] == "draining"
    worker.ownership.leave("starter", "w2")
    assert change(client, "workers/w2/drain")["state"] == "left"
    assert lines(client) == [("drain", "w2", "leaves with its last job")]


def test_a_drain_is_taken_back(client: httpx2.Client, worker: ScriptedWorker, card: Any) -> None:
    worker.ownership.announce(card, "w2", note=NOTE)
    change(client, "workers/w2/drain")
    assert change(client, "workers/w2/undrain") == {"object": "drain", "worker": "w2", "state": "serving"}
    assert worker.ownership.announce(card, "w2", note=NOTE) is False, "it hears of it with every beat"
    assert change(client, "workers/w2/undrain")["state"] == "serving"
    assert [each["state"] for each in ask(client, "workers")["data"]] == ["serving", "serving"]
    change(client, "workers/w2/drain")
    worker.ownership.leave("starter", "w2")
    assert problem(client.post("/v1/admin/workers/w2/undrain", json={})) == (409, "worker-has-left")
    assert problem(client.post("/v1/admin/workers/nobody/undrain", json={})) == (404, "worker-not-found")
    assert lines(client) == [
        ("drain", "w2", "leaves with its last job"),
        ("undrain", "w2", "takes jobs again"),
        ("drain", "w2", "leaves with its last job"),
    ]


def test_a_worker_that_cannot_be_told(client: httpx2.Client) -> None:
    assert problem(client.post("/v1/admin/workers/nobody/drain", json={})) == (404, "worker-not-found")
    old = client.post("/v1/admin/workers/w1/drain", json={})
    assert problem(old) == (409, "worker-cannot-drain")
    assert "SIGTERM" in old.json()["detail"]
    assert lines(client) == []


def test_a_callers_jobs_are_called_off(
    locked: Running,  # noqa: F811
    made: Made,  # noqa: F811
    worker: ScriptedWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "CANCELED_AT_MOST", 2)
    client, ops, ann, bob = locked.client, made("ops", admin=True), made("ann"), made("bob")
    first = client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()["id"]
    worker.claim()
    waiting = [client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()["id"] for _ in range(3)]
    other = client.post("/v1/jobs", json=PARAMETERS, headers=bob).json()
    some = change(client, "tenants/ann/cancel", ops, status="queued")
    assert (some["canceled"], some["has_more"]) == (waiting[:0:-1], True)
    rest = change(client, "tenants/ann/cancel", ops)
    assert (rest["canceled"], rest["requested"], rest["has_more"]) == (waiting[:1], [first], False)
    assert client.get(other["urls"]["self"], headers=bob).json()["status"] == "queued"
    assert change(client, "tenants/nobody/cancel", ops)["canceled"] == []
    [last, before] = ask(client, "audit", ops)["data"]
    assert (before["outcome"], last["outcome"]) == (
        "2 canceled, 0 told to stop, queued jobs only",
        "1 canceled, 1 told to stop",
    )
    key_id = ops["Authorization"].split("_")[1]
    assert {(each["tenant"], each["key_id"], each["via"]) for each in (last, before)} == {("ops", key_id, "api")}
    refused = client.post("/v1/admin/tenants/No%20One/cancel", json={}, headers=ops)
    assert problem(refused) == (422, "invalid-request")


def test_a_cancel_that_breaks_off_has_its_line(
    client: httpx2.Client, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many jobs some are canceled, and then Redis goes away, or the gateway."""
    ids = [send(client)["id"] for _ in range(2)]

    async def break_off(store: JobStore, job_ids: list[str], tenant: str) -> Any:
        await store.cancel(job_ids[0], tenant)
        raise redis.ConnectionError

    monkeypatch.setattr(JobStore, "cancel_all", break_off)
    assert client.post("/v1/admin/tenants/default/cancel", json={}).status_code == 503
    assert lines(client) == [("cancel", "default", changes.CANCEL_BEGUN)]
    assert client.get(f"/v1/jobs/{ids[1]}").json()["status"] == "canceled"


def test_dead_jobs_run_again(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    ids = [kill(client, worker, redis_client) for _ in range(3)]
    one = change(client, f"jobs/{ids[0]}/retry")
    assert change(client, f"jobs/{ids[0]}/retry") == one, "the same new job"
    assert client.get(f"/v1/jobs/{one['id']}").json()["status"] == "queued"
    found, cursor = [], None
    while True:
        answer = change(client, "dead/retry", limit=1, cursor=cursor)
        found += answer["data"]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert [each["retry_of"] for each in found] == [ids[2], ids[1]]
    assert ask(client, "dead")["data"] == change(client, "dead/retry")["data"] == []
    runs = [line for line in lines(client) if line[1] == "dead"]
    assert runs == [("retry", "dead", "1 run again, 0 cannot")] * 2
    assert ("retry", ids[0], f"runs again as {one['id']}") in lines(client)


def test_what_cannot_run_again_does_not_hold_up_the_others(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    first, gone, last = (kill(client, worker, redis_client) for _ in range(3))
    redis_client.hset(keys.JOB + gone, "model", "forgotten")
    answer = change(client, "dead/retry")
    assert [(each["retry_of"], each["refusal"]) for each in answer["data"]] == [
        (last, None),
        (gone, "model-gone"),
        (first, None),
    ]
    assert "forgotten" in answer["data"][1]["detail"]
    assert [each["id"] for each in ask(client, "dead")["data"]] == [gone]
    assert problem(client.post(f"/v1/admin/jobs/{gone}/retry", json={})) == (409, "job-not-retryable")
    assert problem(client.post(f"/v1/admin/jobs/job_{'0' * 24}/retry", json={})) == (404, "job-not-found")
    assert problem(client.post("/v1/admin/jobs/x/retry", json={})) == (404, "job-not-found")
    queued = send(client)["id"]
    assert problem(client.post(f"/v1/admin/jobs/{queued}/retry", json={})) == (409, "job-not-retryable")


def test_a_further_name_is_given_and_taken_back(client: httpx2.Client, worker: ScriptedWorker) -> None:
    given = {"id": "stability-ai/sdxl", "alias_of": "starter", "state": "works"}
    assert change(client, "aliases", alias="stability-ai/sdxl", model="starter")["data"] == [given]
    assert client.get("/v1/admin/aliases").json()["data"] == [given]
    until(lambda: client.get("/v1/models/darkroom/starter").status_code == 200)
    until(lambda: client.post("/v1/jobs", json=PARAMETERS | {"model": "stability-ai/sdxl"}).status_code == 202)
    for body, pointer, code in (
        ({"alias": "starter", "model": "starter"}, "/alias", "is_model"),
        ({"alias": "x", "model": "nowhere"}, "/model", "model_unknown"),
        ({"alias": "x", "model": "stability-ai/sdxl"}, "/model", "is_alias"),
        ({"alias": "a name", "model": "starter"}, "/alias", "alias_illegal"),
        ({"alias": "x"}, "/model", "missing"),
    ):
        answer = client.post("/v1/admin/aliases", json=body)
        assert answer.status_code == 422, body
        [error] = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
    assert change(client, "models/stability-ai%2Fsdxl/pause")["paused"]
    assert change(client, "models/stability-ai%2Fsdxl/resume")["paused"] is None
    assert change(client, "aliases/remove", alias="stability-ai/sdxl")["data"] == []
    [error] = client.post("/v1/admin/aliases/remove", json={"alias": "stability-ai/sdxl"}).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/alias", "alias_unknown")
    assert lines(client) == [
        ("alias", "stability-ai/sdxl", "means starter no more"),
        ("resume", "starter", "claimed again"),
        ("pause", "starter", "jobs come in and wait"),
        ("alias", "stability-ai/sdxl", "means starter"),
    ]


def test_the_audit_as_csv(client: httpx2.Client) -> None:
    for reason in ("a", "b", "c"):
        change(client, "models/starter/pause", reason=reason)
    answer = client.get("/v1/admin/audit", params={"limit": 2}, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    following = re.findall(r'<([^>]*)>; rel="next"', answer.headers["link"])
    rows = [*csv.DictReader(io.StringIO(answer.text))]
    second = client.get(following[0])
    rows += csv.DictReader(io.StringIO(second.text))
    assert "link" not in second.headers
    assert [row["action"] for row in rows] == ["pause"] * 3
    assert [{**row} for row in rows] == pages(client, "audit")
    assert problem(client.get("/v1/admin/audit", params={"format": "xml"})) == (422, "invalid-request")
    assert problem(client.get("/v1/admin/audit", params={"cursor": "x"})) == (422, "invalid-request")


def test_the_audit_is_bounded(client: httpx2.Client, redis_client: redis.Redis) -> None:
    """By age and by number."""
    redis_client.zadd(keys.AUDIT, {"aud_" + "0" * 24 + " {}": 1})
    redis_client.zadd(keys.AUDIT, {f"aud_{n:024x} {{}}": 4e12 + n for n in range(keys.AUDIT_KEPT)})
    change(client, "models/starter/pause")
    assert redis_client.zcard(keys.AUDIT) == keys.AUDIT_KEPT
    assert redis_client.zcount(keys.AUDIT, 0, 1) == 0


def test_metrics(client: httpx2.Client, worker: ScriptedWorker, card: Any) -> None:
    assert 'darkroom_model_paused{model="starter"} 0.0' in client.get("/metrics").text
    worker.ownership.announce(card, "w2", note=NOTE)
    change(client, "models/starter/pause")
    change(client, "workers/w2/drain")
    said = client.get("/metrics").text
    assert 'darkroom_model_paused{model="starter"} 1.0' in said
    assert "darkroom_workers_draining 1.0" in said


def test_a_change_is_a_line_of_the_log(client: httpx2.Client) -> None:
    with structlog.testing.capture_logs() as logs:
        change(client, "models/starter/pause", reason="a canary")
    [line] = [each for each in logs if each["event"] == "operator"]
    assert (line["action"], line["target"], line["outcome"], line["key_id"]) == ("pause", "starter", "paused", "")
    assert "canary" not in str(logs)


def test_a_span_says_what_was_changed_and_not_of_whom() -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("POST") as span:
        note_change("cancel", "3 canceled, 0 told to stop")
    said = {"darkroom.admin.action": "cancel", "darkroom.admin.outcome": "3 canceled, 0 told to stop"}
    assert dict(span.attributes) == said  # type: ignore[attr-defined]
