"""Headers that a webhook's receiver asked for: sent with every message, and never seen anywhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError, Record, new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.params import JobRequest, Webhook, resolve
from app.contract.redis import keys
from app.contract.redis.outbox import Outbox
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore
from tests.webhooks.conftest import PostOffice
from tests.webhooks.receivers import Receiver, says, verified

pytestmark = pytest.mark.anyio

SECRET = "Bearer zanzibar-7"
HEADERS = {"Authorization": SECRET, "X-Tenant": "ann b", "User-Agent": "mine"}
LIMITS = {"queue_limit": 100, "tenant_limit": 100}

MakeJob = Callable[..., NewJob]


@pytest.fixture
def make_job(card: ModelCard) -> MakeJob:
    def make(url: str, *, events: tuple[str, ...] = ("job.canceled",), headers: Any = HEADERS) -> NewJob:
        webhook = Webhook.model_validate({"url": url, "events": list(events), "headers": headers})
        spec = resolve(JobRequest(prompt="a frog", seed=7), card)
        return NewJob(new_job_id(), "ann", spec, retention_ms=600_000, metadata={}, webhook=webhook)

    return make


async def test_they_come_with_every_try(
    office: PostOffice, receivers: Any, make_job: MakeJob, store: JobStore, outbox: Outbox, the_clock_turns: Any
) -> None:
    receiver: Receiver = await receivers(says("500 Oops"))
    job = make_job(receiver.url)
    await store.submit(job, **LIMITS)
    await store.cancel(job.id, "ann")
    with structlog.testing.capture_logs() as logs:
        await office.round()
        the_clock_turns(3_600)
        await office.round()
    assert len(receiver.arrivals) == 2
    for arrival in receiver.arrivals:
        assert arrival.headers["authorization"] == SECRET
        assert arrival.headers["x-tenant"] == "ann b"
        assert arrival.headers["user-agent"] == "mine"
        assert arrival.headers["content-type"] == "application/json"
        assert arrival.headers["webhook-id"].startswith("msg_")
        assert b"zanzibar" not in arrival.body
    assert "zanzibar" not in str(logs)
    assert "zanzibar" not in str([line.model_dump() for line in await outbox.deliveries(job.id)])


async def test_the_signature_is_as_good_as_without_them(
    office: PostOffice, receiver: Receiver, make_job: MakeJob, store: JobStore, secrets: Any
) -> None:
    job = make_job(receiver.url)
    await store.submit(job, **LIMITS)
    await store.cancel(job.id, "ann")
    await office.round()
    assert verified(receiver.arrivals[0], (await secrets.current("ann"))[0])["type"] == "job.canceled"


async def test_a_job_that_is_run_again_has_them_too(
    office: PostOffice, receiver: Receiver, make_job: MakeJob, store: JobStore, redis_client: redis.Redis
) -> None:
    await store.submit(make_job(receiver.url), **LIMITS)
    owner = Ownership(redis_client)
    claim = owner.claim("starter", "w1")
    assert claim is not None
    owner.fail(claim, JobError(slug="numerical-error", detail="Values overflowed."))
    again = await store.retry(claim.id, "ann", **LIMITS)
    await store.cancel(again.id, "ann")
    await office.round()
    assert [arrival.headers["authorization"] for arrival in receiver.arrivals] == [SECRET]


class OldWebhook(BaseModel):
    """As the version before read it: whatever it did not know, it refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str
    events: list[str]
    form: str = "event"


async def test_older_processes_read_what_newer_ones_write(
    make_job: MakeJob, store: JobStore, redis_client: redis.Redis
) -> None:
    for headers in (HEADERS, {}):
        job = make_job("https://example.org/hook", headers=headers)
        submission = await store.submit(job, **LIMITS)
        fields = redis_client.hgetall(keys.JOB + job.id)
        assert OldWebhook.model_validate_json(fields["webhook"]).url == "https://example.org/hook"
        assert ("webhook_headers" in fields) is bool(headers)
        assert submission.record == await store.get(job.id, "ann"), "the submitter is told what everybody reads"
        assert SECRET not in repr(submission.record)


async def test_newer_processes_read_what_older_ones_wrote(
    make_job: MakeJob, store: JobStore, redis_client: redis.Redis
) -> None:
    job = make_job("https://example.org/hook", headers={})
    await store.submit(job, **LIMITS)
    fields = redis_client.hgetall(keys.JOB + job.id)
    fields["webhook"] = json.dumps({"url": "https://example.org/hook", "events": ["job.failed"]})
    assert Record.from_hash(fields).webhook_headers == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"content-length": "0"},
        {"Content-Type": "text/plain"},
        {"Webhook-Signature": "v1,x"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Proxy-Authorization": "x"},
        {"Expect": "100-continue"},
        {"X-A": "a\r\nX-B: b"},
        {"X-A": "a\nb"},
        {"X-A\r\nX-B": "a"},
        {"X-A": "a\x00"},
        {"X-A": "é"},
        {"X-A": ""},
        {"X-A": " a"},
        {"X-A": "a "},
        {"X A": "a"},
        {"X-A:": "a"},
        {"": "a"},
        {"x" * 65: "a"},
        {"X-A": "a", "x-a": "b"},
        {"X-A": "a" * 4_100},
        {f"X-{number}": "a" for number in range(17)},
        {"X-A": 7},
    ],
)
def test_headers_that_cannot_be(headers: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Webhook.model_validate({"url": "https://example.org/hook", "headers": headers})
