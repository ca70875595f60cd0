"""`darkroom usage`: by day, as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
import redis

from app.cli.usage import duration, size
from app.contract.redis import keys
from tests.app.conftest import OPERATOR_TOKEN
from tests.app.test_usage import on_redis, put
from tests.cli.conftest import Run


def test_what_was_used(run: Run, redis_client: redis.Redis) -> None:
    today = on_redis(redis_client)
    nothing = run("usage", "--from", "2020-01-01", "--to", "2020-01-31")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing was used from 2020-01-01 to 2020-01-31" in nothing.stderr
    put(redis_client, today - timedelta(days=2), "default", "1 1 0 4 80 160 2500000 9000000 70")
    put(redis_client, today - timedelta(days=1), "default", "2 0 1 8 160 320 7300000000 1 0")
    [head, first, second, total] = run("usage").stdout.splitlines()
    assert head.split()[:4] == ["day", "(UTC)", "jobs", "failed"]
    assert first.split()[:5] == [f"{today - timedelta(days=2)}", "2", "1", "0", "4"]
    assert [" ".join(line.split()[6:]) for line in (first, second, total)] == [
        "2.50 s 9 MB 70 B", "2 h 01 min 1 B 0 B", "2 h 01 min 9 MB 70 B",
    ]  # fmt: skip
    assert total.split()[:5] == ["total", "5", "1", "1", "12"]
    told = json.loads(run("usage", "--json").stdout)
    lines = list(csv.DictReader(io.StringIO(run("usage", "--csv").stdout)))
    assert [{name: str(value) for name, value in day.items()} for day in told["data"]] == lines
    redis_client.hset(keys.INPUT_BYTES, "default", "3200000 0")
    assert run("usage").stdout.splitlines()[-1] == "pictures sent in: 3.2 MB of 10.7 GB"
    day = f"{today - timedelta(days=1)}"
    assert [line["date"] for line in csv.DictReader(io.StringIO(run("usage", "--csv", "--from", day).stdout))] == [day]


@pytest.fixture
def as_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_API_KEY", OPERATOR_TOKEN)


@pytest.mark.usefixtures("as_operator")
def test_an_operator_sees_everybodys(run: Run, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gateway's pages."""
    monkeypatch.setattr("app.cli.usage.ROWS_AT_ONCE", 2)
    day = on_redis(redis_client) - timedelta(days=2)
    for number, tenant in enumerate(("ann", "bob", "cat"), start=1):
        put(redis_client, day, tenant, f"{number} 0 0")
    [_, *rows, total] = run("usage", "--all").stdout.splitlines()
    assert [row.split()[:3] for row in rows] == [[f"{day}", "ann", "1"], [f"{day}", "bob", "2"], [f"{day}", "cat", "3"]]
    assert total.split()[:2] == ["total", "6"]
    told = json.loads(run("usage", "--all", "--json").stdout)
    assert ([row["tenant"] for row in told["data"]], told["total"]["jobs"]) == (["ann", "bob", "cat"], 6)
    [_, line] = run("usage", "--tenant", "bob", "--csv").stdout.splitlines()
    assert line.startswith(f"{day},bob,2,2,0,0,")


@pytest.mark.usefixtures("as_operator")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "yesterday"), "write one as 2026-11-27"),
        (("--to", "2026-02-30"), "no day of the calendar"),
        (("--csv", "--json"), "take one"),
        (("--all", "--tenant", "ann"), "take one"),
        (("--tenant", "Not One"), "--tenant"),
        (("--from", "2026-01-02", "--to", "2026-01-01"), "--to is before the first day"),
        (("--from", "2020-01-01"), "--from is more than 400 days before"),
    ],
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run("usage", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_how_amounts_are_written() -> None:
    seconds = (0, 0.414, 12.34, 59.96, 61, 3599.6, 3600, 363_600)
    assert [duration(each) for each in seconds] == [
        "0.00 s", "0.41 s", "12.3 s", "60.0 s", "1 min 01 s", "1 h 00 min", "1 h 00 min", "101 h 00 min",
    ]  # fmt: skip
    sizes = (0, 999, 1_000, 1_234_567, 999_600, 5 * 10**15)
    assert [size(each) for each in sizes] == ["0 B", "999 B", "1 kB", "1.23 MB", "1 MB", "5e+03 TB"]
