"""Running a failed job again, and sending a webhook again."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
import redis
import redis.asyncio

from app.contract.messages.job import new_token
from app.contract.redis import keys
from app.contract.redis.outbox import Delivery, Outbox
from app.settings import Settings
from app.webhooks.relay import Relay
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_refusals import problem

HOOK = {"url": "https://example.org/hook", "events": ["job.succeeded"]}


def test_a_failed_job_is_run_again_once(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, {**PARAMETERS, "metadata": {"order": "17"}})
    worker.fail(worker.claim())
    answer = client.post(f"{job['urls']['self']}/retry")
    again = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{again['id']}")
    assert again["id"] != job["id"]
    assert (again["status"], again["input"], again["metadata"]) == ("queued", job["input"], job["metadata"])
    assert client.post(f"{job['urls']['self']}/retry").json()["id"] == again["id"]
    worker.succeed(worker.claim())
    assert client.get(again["urls"]["self"]).json()["status"] == "succeeded"
    assert client.get(job["urls"]["self"]).json()["status"] == "failed"


def test_only_failed_jobs(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client)
    assert problem(client.post(f"{job['urls']['self']}/retry")) == (409, "job-not-retryable")
    worker.succeed(worker.claim())
    assert problem(client.post(f"{job['urls']['self']}/retry")) == (409, "job-not-retryable")


def test_a_retry_into_a_full_queue(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(queue_limit=1) as running:
        job = send(running.client)
        worker.fail(worker.claim())
        send(running.client)
        refused = running.client.post(f"{job['urls']['self']}/retry")
    assert problem(refused) == (429, "queue-full")
    assert "retry-after" in refused.headers


def delivered(settings: Settings, verdict: str = "delivered") -> Delivery:
    """The webhook process takes the one entry there is and says how it went."""

    async def deliver() -> Delivery:
        url = settings.redis_url.get_secret_value()
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
            outbox = Outbox(client)
            assert await Relay(outbox).step() == 1
            one = await outbox.take("w", new_token())
            assert one is not None
            line = Delivery(
                webhook_id="msg_1", event=one.event, number=one.number, outcome=verdict, status=200,  # type: ignore[arg-type]
                at_ms=one.now_ms, took_ms=12,
            )  # fmt: skip
            assert await outbox.settle(one, "over", log=line)
            return line

    return asyncio.run(deliver())


def test_the_log_and_sending_again(client: httpx2.Client, worker: ScriptedWorker, settings: Settings) -> None:
    job = send(client, {**PARAMETERS, "webhook": HOOK})
    path = f"{job['urls']['self']}/webhooks"
    assert client.get(path).json() == {"object": "list", "data": []}
    assert problem(client.post(f"{path}/job.succeeded/resend")) == (404, "webhook-not-found")
    worker.succeed(worker.claim())
    delivered(settings)
    [line] = client.get(path).json()["data"]
    assert (line["event"], line["outcome"], line["status"], line["number"]) == ("job.succeeded", "delivered", 200, 1)
    assert (line["took_seconds"], line["next_at"], line["at"][-1]) == (0.012, None, "Z")

    assert client.post(f"{path}/job.succeeded/resend").status_code == 202
    delivered(settings)
    assert len(client.get(path).json()["data"]) == 2
    assert problem(client.post(f"{path}/job.failed/resend")) == (404, "webhook-not-found")


@pytest.mark.parametrize("event", ["job.zanzibar", "x" * 2_000, "%2f", "*", "job.succeeded%00"])
def test_events_that_are_none(client: httpx2.Client, redis_client: redis.Redis, event: str) -> None:
    job = send(client, {**PARAMETERS, "webhook": HOOK})
    answer = client.post(f"{job['urls']['self']}/webhooks/{event}/resend")
    assert answer.status_code == 404
    assert not redis_client.keys(f"{keys.OUTBOX}*")
