"""A little of the load bench against real processes: what was accepted is there, once, and comes to its end.

Counted, not timed: how many jobs a machine accepts in half a second is no bound to build a verdict on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.contract.redis import keys, rq_names
from benchmarks import load, uploads
from benchmarks.load_cases import CONNECTIONS, accepts, overload, polls
from benchmarks.load_client import Answer, Wires, closed_loop
from benchmarks.load_servers import CARD, PARAMETERS, Server, server
from benchmarks.load_streams import streams
from benchmarks.load_worker import clockwork
from benchmarks.report import Figures
from tests.waiting import WAIT_SECONDS, until

JOBS = 200

RQ_LIST = rq_names.RQ_QUEUE + rq_names.queue_name(CARD.name)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two processes over a Valkey of their own, with room for any number of jobs."""
    with server("gateway", tmp_path_factory.mktemp("load") / "server") as running:
        yield running


def test_every_accepted_job_is_in_redis_and_waits_once(gateway: Server) -> None:
    redis, accepted = gateway.redis(), list[str]()

    async def send_many() -> None:
        async with Wires(gateway.address, CONNECTIONS) as wires:

            async def send() -> Answer:
                answer = await wires.ask(gateway.address.post("/v1/jobs", PARAMETERS))
                accepted.append(json.loads(answer.body)["id"])
                return answer

            (await closed_loop(CONNECTIONS, WAIT_SECONDS, send, most=JOBS)).only(202)

    asyncio.run(send_many())
    assert len(set(accepted)) == len(accepted) == JOBS
    assert all(redis.hget(keys.JOB + job_id, "status") == "queued" for job_id in accepted)
    assert sorted(redis.zrange(keys.QUEUED + CARD.name, 0, -1)) == sorted(accepted)
    assert sorted(redis.lrange(RQ_LIST, 0, -1)) == sorted(accepted)


def test_the_cases_of_the_bench_end_and_see_no_fault(gateway: Server) -> None:
    assert asyncio.run(polls(gateway, seconds=0.5)).count(200) == 200
    assert asyncio.run(accepts(gateway, seconds=WAIT_SECONDS, most=JOBS)).count(202) == JOBS


def test_the_benches_keep_what_they_found(gateway: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server stands for both: what is compared is no business of a test's."""

    @contextmanager
    def the_one_that_runs(kind: str, folder: Path, **settings: object) -> Iterator[Server]:
        yield dataclasses.replace(gateway, kind=kind)

    file = tmp_path / "figures.json"
    for module, words in (
        (load, ["--only", "accepts,polls", "--seconds", "0.5", "--pairs", "1"]),
        (uploads, ["--uploads", "2", "--megapixels", "0.1", "--seconds", "0.5"]),
    ):
        monkeypatch.setattr(module, "server", the_one_that_runs)
        monkeypatch.setattr(sys, "argv", [module.__name__, *words, "--json", str(file)])
        module.main()
        (table,) = Figures.read(file).tables.values()
        assert table.columns == (load.TRAFFIC if module is load else uploads.POLLS)
        assert len(table.rows) == (5 if module is load else 2)


def test_streams_hear_their_job(gateway: Server) -> None:
    found = asyncio.run(streams(gateway, count=40, events_a_second=1_000))
    assert len(found.late_ms) >= 40
    assert all(late > 0 for late in found.late_ms)


def test_a_full_queue_refuses_the_rest_and_what_it_took_is_done(tmp_path: Path) -> None:
    """The worker starts after the queue is full, so that what is refused does not depend on who is faster."""
    with server("gateway", tmp_path / "server", processes=1, queue_limit="10") as small:
        redis, submit = small.redis(), small.address.post("/v1/jobs", PARAMETERS)

        async def send_many() -> list[int]:
            async with Wires(small.address, CONNECTIONS) as wires:
                return sorted([(await wires.ask(submit)).status for _ in range(30)])

        assert asyncio.run(send_many()) == [202] * 10 + [429] * 20
        with clockwork(small.redis_url, job_seconds=0.01):
            until(lambda: redis.zcard(keys.QUEUED + CARD.name) == 0)
            # Every answer is 202, 429 or 503, and every job that was accepted comes to its end, or this raises.
            assert asyncio.run(overload(small, seconds=0.4, calm_seconds=0.2)).offered.count(202) > 0
        assert redis.zcard(keys.QUEUED + CARD.name) == 0
