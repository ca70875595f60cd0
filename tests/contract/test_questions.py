"""Jobs that draw nothing, in Redis: read as they were asked, answered, asked again, harmless to versions of before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import JobError, Record, new_job_id
from app.contract.messages.kept_spec import read_stored
from app.contract.messages.questions import EmbedSpec, Question, ScoreResult, ScoreSpec, no_picture
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from app.contract.redis.scripts import source
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

LIMITS = {"queue_limit": 10_000, "tenant_limit": 10_000}
SCORE = ScoreSpec(model="scorer", images=(), texts=("a red circle", "a yellow star"))
EMBED = EmbedSpec(model="scorer", input=("a red circle",), space="image", seed=7)
PICTURE = InputPicture(sha256="a" * 64, width=8, height=9, content_type="image/png")
RESULT = ScoreResult(model_sha256="1" * 64, cosine=((0.5, -0.1),), probability=((1.0, 0.0),), logit_scale=100.0)


def asking(question: Question, tenant: str = "ann") -> NewJob:
    return NewJob(new_job_id(), tenant, no_picture(question), retention_ms=60_000, metadata={}, question=question)


@pytest.mark.parametrize("question", [SCORE, EMBED, EMBED.model_copy(update={"input": ("a", PICTURE)})], ids=str)
async def test_a_question_is_read_as_it_was_asked(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis, card: ModelCard, question: Question
) -> None:
    job = asking(question)
    for input_id in job.inputs:
        redis_client.hset(keys.INPUT + input_id, "id", input_id)
    submission = await store.submit(job, **LIMITS)
    record = await store.get(job.id, "ann")
    assert submission.record == record
    assert record is not None
    assert (record.task, record.question, record.result) == (question.task, question, None)
    claim = ownership.claim("scorer", "w1")
    assert claim is not None
    assert (claim.question, list(claim.pictures)) == (question, list(question.pictures))
    assert 0 < job.cost == record.cost(card) < 1


async def test_the_answer_is_in_the_record(store: JobStore, ownership: Ownership) -> None:
    job = asking(SCORE)
    await store.submit(job, **LIMITS)
    claim = ownership.claim("scorer", "w1")
    assert claim is not None
    assert ownership.answered(claim, RESULT, timings={"score": 0.1}, warnings=["cut"])
    # Said again, because the answer was lost.
    assert ownership.answered(claim, RESULT, timings={"score": 0.1}, warnings=["cut"])
    record = await store.get(job.id, "ann")
    assert record is not None
    assert (record.status, record.result, record.warnings) == (Status.SUCCEEDED, RESULT, ("cut",))
    assert (record.step, record.steps, record.images) == (1, 1, ())
    [(_, event, data)] = (await store.next_events(job.id, "0", wait_seconds=0.01))[-1:]
    assert (event, data) == ("job.succeeded", {"images": 0})


async def test_a_question_that_failed_is_asked_again(store: JobStore, ownership: Ownership) -> None:
    job = asking(EMBED)
    await store.submit(job, **LIMITS)
    claim = ownership.claim("scorer", "w1")
    assert claim is not None
    ownership.fail(claim, JobError(slug="numerical-error", detail="Overflowed."))
    again = await store.retry(job.id, "ann", **LIMITS)
    record = await store.get(again.id, "ann")
    assert record is not None
    assert (record.task, record.question) == ("embed", EMBED)


async def test_gateways_of_before_read_a_drawing_without_pictures(store: JobStore, redis_client: redis.Redis) -> None:
    """They know neither task nor question, and need all of these."""
    job = asking(SCORE)
    await store.submit(job, **LIMITS)
    fields = redis_client.hgetall(keys.JOB + job.id)
    of_before = {name: value for name, value in fields.items() if name not in ("task", "question")}
    needed = {"model", "prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler", "seed"}
    assert needed <= json.loads(of_before["spec"]).keys()
    record = Record.from_hash(of_before)
    assert (record.task, record.question) == ("draw", None)
    assert record.spec == read_stored(of_before["spec"])
    assert (record.spec.prompt, record.spec.num_images) == ("a red circle\na yellow star", 0)


async def test_workers_of_before_leave_a_question_alone(store: JobStore, redis_client: redis.Redis) -> None:
    await store.submit(asking(SCORE), **LIMITS)
    claim = redis_client.register_script(source("claim"))
    assert claim(args=["scorer", "w1", "t" * 32, 5, 0]) is None
    assert claim(args=["scorer", "w1", "u" * 32, keys.RECORD_VERSION, 0]) is not None


async def test_jobs_of_one_task_are_found_among_others(store: JobStore, new_job: Callable[..., NewJob]) -> None:
    """By pages, and with whatever else of a list is asked for."""
    asked, drawn = [asking(SCORE) for _ in range(3)], [new_job() for _ in range(30)]
    for job in (asked[0], *drawn[:10], asked[1], *drawn[10:], asked[2]):
        await store.submit(job, **LIMITS)

    async def listed(**wanted: Any) -> list[str]:
        return [record.id for record in await store.list_jobs("ann", **wanted)]

    # Of those of one millisecond, any may come first.
    everything = await listed(limit=99)
    scores = [job_id for job_id in everything if job_id in {job.id for job in asked}]
    assert (len(everything), len(scores)) == (33, 3)
    assert await listed(limit=10, task="score") == scores
    assert await listed(limit=2, task="score") == scores[:2]
    second = await store.get(scores[1], "ann")
    assert second is not None
    assert await listed(limit=5, task="score", before=(second.created_ms, second.id)) == scores[2:]
    assert await listed(limit=99, task="draw") == [job_id for job_id in everything if job_id not in scores]
    assert await listed(limit=7, task="draw") == [job_id for job_id in everything if job_id not in scores][:7]
    assert [each.id for each in await store.open_jobs("ann", limit=9, task="score")] == scores
    assert await listed(limit=9, task="embed") == []
    assert await listed(limit=9, task="score", status=Status.SUCCEEDED) == []
