"""GET /v1/usage: what a tenant has used, by day, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import httpx2
import pytest
import redis

from app.admin.pages import write_place
from app.contract.messages.usage import Usage
from app.contract.redis import keys
from app.contract.redis.usage import Day, UsageStore
from app.edge.errors import InvalidRequest
from app.jobs.usage import COLUMNS, InputsHeld, Period, UsageDay, UsageReport
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY
from tests.app.test_jobs import send
from tests.app.test_refusals import problem

TODAY = date(2026, 11, 27)


def put(redis_client: redis.Redis, day: date, tenant: str, text: str) -> None:
    number = (day - date(1970, 1, 1)).days
    redis_client.hset(f"{keys.USAGE}{number}", tenant, text)


def on_redis(redis_client: redis.Redis) -> date:
    seconds, _ = redis_client.time()
    return datetime.fromtimestamp(seconds, UTC).date()


def test_what_was_used_by_day(client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    before = on_redis(redis_client)
    empty = client.get("/v1/usage").json()
    assert (empty["object"], empty["data"], empty["total"]["jobs"]) == ("usage", [], 0)
    send(client, {"prompt": "a red circle", "num_images": 2})
    worker.succeed(worker.claim(), blocked=[1])
    send(client)
    worker.block(worker.claim())
    called_off = send(client)
    client.post(f"/v1/jobs/{called_off['id']}/cancel").raise_for_status()
    put(redis_client, before - timedelta(days=3), "default", "1 0 0 4 80 160 2500000 9000 70")
    put(redis_client, before - timedelta(days=3), "another", "9 9 9 9 9 9 9 9 9")
    put(redis_client, before - timedelta(days=31), "default", "1 0 0 0 0 0 0 0 0")
    answer = client.get("/v1/usage")
    body = answer.json()
    assert body["to"] in {day.isoformat() for day in (before, on_redis(redis_client))}
    assert date.fromisoformat(body["to"]) - date.fromisoformat(body["from"]) == timedelta(days=29)
    first, *rest = body["data"]
    assert first == {
        "date": (before - timedelta(days=3)).isoformat(), "tenant": "default", "jobs": 1, "succeeded": 1, "failed": 0,
        "canceled": 0, "pictures": 4, "evaluations": 80, "rows": 160, "device_seconds": 2.5, "stored_bytes": 9000,
        "uploaded_bytes": 70,
    }  # fmt: skip
    ended = {name: sum(day[name] for day in rest) for name in ("jobs", "succeeded", "failed", "canceled", "pictures")}
    assert ended == {"jobs": 3, "succeeded": 1, "failed": 1, "canceled": 1, "pictures": 1}, "blocked ones are none"
    assert body["total"]["pictures"] == 5
    assert body["total"]["stored_bytes"] == 9000 + len(b"not really a PNG")
    assert answer.headers["vary"] == "Accept"
    assert client.head("/v1/usage").status_code == 200


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=csv", "application/json"), ("", "text/csv"), ("", "text/csv, */*;q=0.1")]
)
def test_as_csv(client: httpx2.Client, redis_client: redis.Redis, query: str, accept: str) -> None:
    day = on_redis(redis_client) - timedelta(days=1)
    put(redis_client, day, "default", "1 0 0 4 80 160 2500000 9000 70")
    answer = client.get(f"/v1/usage{query}", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="usage-20')
    [line] = csv.DictReader(io.StringIO(answer.text))
    as_json = client.get("/v1/usage?format=json", headers={"Accept": "text/csv"}).json()["data"]
    assert [{name: str(value) for name, value in each.items()} for each in as_json] == [line]


HELD = InputsHeld(bytes=0, most_bytes=None)


def test_the_columns_are_all_there_is() -> None:
    assert set(COLUMNS) == set(UsageDay.model_fields)
    report = UsageReport.of(
        Period(TODAY, TODAY), [(TODAY, "ann", Usage(failed=2)), (TODAY, "bob", Usage(failed=3))], HELD
    )
    assert report.total.failed == report.total.jobs == 5


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("from=yesterday", "from"),
        ("from=", "from"),
        ("from=20261101", "from"),
        ("to=2026-02-30", "to"),
        ("to=1764115200", "to"),
        ("to=2026-11-27T00:00:00Z", "to"),
        ("from=2026-11-02&to=2026-11-01", "to"),
        ("from=2026-01-01&to=2027-02-05", "from"),
        ("format=xml", "format"),
    ],
)
def test_what_is_refused(client: httpx2.Client, query: str, parameter: str) -> None:
    answer = client.get(f"/v1/usage?{query}")
    assert problem(answer) == (422, "invalid-request")
    [error] = answer.json()["errors"]
    assert error["parameter"] == parameter
    assert "yesterday" not in answer.text


@pytest.mark.parametrize("query", ["from=9998-12-01", "to=0001-01-02", "from=0001-01-01&to=0001-12-31"])
def test_a_time_of_which_there_can_be_nothing(client: httpx2.Client, query: str) -> None:
    assert client.get(f"/v1/usage?{query}").raise_for_status().json()["data"] == []


@pytest.mark.parametrize(
    ("first", "last", "meant"),
    [
        (None, None, (date(2026, 10, 29), TODAY)),
        (date(2026, 11, 1), None, (date(2026, 11, 1), TODAY)),
        (None, date(2026, 1, 30), (date(2026, 1, 1), date(2026, 1, 30))),
        (date(2026, 12, 1), None, (date(2026, 12, 1), date(2026, 12, 1))),
        (date(2025, 10, 24), TODAY, (date(2025, 10, 24), TODAY)),
    ],
)
def test_which_days_are_meant(first: date | None, last: date | None, meant: tuple[date, date]) -> None:
    assert Period.asked(first, last, today=TODAY) == Period(*meant)


def test_what_is_kept_of_them() -> None:
    with pytest.raises(InvalidRequest):
        Period.asked(date(2025, 10, 23), TODAY, today=TODAY)
    assert Period(date(2025, 1, 1), date(2027, 1, 1)).kept(today=TODAY) == Period(date(2025, 10, 23), TODAY)
    assert Period(date(2026, 11, 28), date(2026, 11, 30)).kept(today=TODAY) is None
    assert Period(date(2024, 1, 1), date(2024, 12, 31)).kept(today=TODAY) is None


def test_a_tenant_sees_its_own(gateway_with: OneGateway, redis_client: redis.Redis) -> None:
    put(redis_client, on_redis(redis_client), "ann", "1 0 0 4")
    put(redis_client, on_redis(redis_client), "bob", "0 0 2 0")
    with gateway_with(api_keys=f"ann:{KEY},bob:{OTHER_KEY}") as running:
        assert problem(running.client.get("/v1/usage")) == (401, "unauthenticated")
        for key, tenant, jobs in ((KEY, "ann", 1), (OTHER_KEY, "bob", 2)):
            answer = running.client.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}).json()
            assert [(day["tenant"], day["jobs"]) for day in answer["data"]] == [(tenant, jobs)]


@pytest.mark.usefixtures("as_operator")
def test_an_operator_sees_everybodys_by_pages(client: httpx2.Client, redis_client: redis.Redis) -> None:
    today = on_redis(redis_client)
    for days, tenants in ((1, ("bob", "ann", "cat")), (3, ("ann",)), (40, ("ann",))):
        for tenant in tenants:
            put(redis_client, today - timedelta(days=days), tenant, f"{days} 0 0")
    whole = client.get("/v1/admin/usage").raise_for_status().json()
    rows = [(row["date"], row["tenant"]) for row in whole["data"]]
    yesterday, before = f"{today - timedelta(days=1)}", f"{today - timedelta(days=3)}"
    assert rows == [(before, "ann"), (yesterday, "ann"), (yesterday, "bob"), (yesterday, "cat")]
    assert (whole["object"], whole["next_cursor"]) == ("usage", None)
    paged, cursor = [], None
    for _ in range(4):
        page = client.get("/v1/admin/usage", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
        paged += [(row["date"], row["tenant"]) for row in page["data"]]
        cursor = page["next_cursor"]
    assert (paged, cursor) == (rows, None)
    ann = client.get("/v1/admin/usage?tenant=ann").json()["data"]
    assert [(row["date"], row["jobs"]) for row in ann] == [(before, 3), (yesterday, 1)]
    answer = client.get("/v1/admin/usage?format=csv&limit=1")
    assert answer.headers["content-disposition"].startswith('attachment; filename="usage-20')
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(line["date"], line["tenant"]) for line in lines] == rows, "a file has all of it"
    assert client.get("/v1/admin/usage?from=2020-01-01&to=2020-02-01&format=csv").text.count("\n") == 1


@pytest.mark.usefixtures("as_operator")
def test_a_page_reads_no_day_before_its_cursor(
    client: httpx2.Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, of_all = [], UsageStore.of_all

    def noted(store: UsageStore, first: date, last: date) -> AsyncIterator[list[Day]]:
        read.append((first, last))
        return of_all(store, first, last)

    monkeypatch.setattr(UsageStore, "of_all", noted)
    today = on_redis(redis_client)
    for days in (3, 2, 1):
        put(redis_client, today - timedelta(days=days), "ann", "1 0 0")
    cursor = write_place((f"{today - timedelta(days=2)}", "aaa"))
    page = client.get("/v1/admin/usage", params={"cursor": cursor}).json()
    assert [row["date"] for row in page["data"]] == [f"{today - timedelta(days=days)}" for days in (2, 1)]
    assert read == [(today - timedelta(days=2), today)]
    late = write_place((f"{today + timedelta(days=2)}", "ann"))
    page = client.get("/v1/admin/usage", params={"cursor": late}).json()
    assert (page["data"], page["next_cursor"], len(read)) == ([], None, 1)


@pytest.mark.usefixtures("as_operator")
@pytest.mark.parametrize(
    "query",
    [
        "tenant=Ann",
        "cursor=x",
        f"cursor={write_place(('2026-13-01', 'ann'))}",
        "limit=0",
        "from=2026-11-02&to=2026-11-01",
    ],
)
def test_what_an_operator_is_refused(client: httpx2.Client, query: str) -> None:
    assert problem(client.get(f"/v1/admin/usage?{query}")) == (422, "invalid-request")
