"""Pictures that the model's safety checker flagged: marked or not shown, in every dialect's own words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
import redis
from replicate.exceptions import ModelError

from app.contract.messages.events import Status
from app.contract.redis import keys
from app.contract.redis.ownership import Claim
from app.jobs.references import _picture_of, _Unusable
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_jobs import PARAMETERS, send
from tests.app.test_openai import official
from tests.app.test_refusals import problem
from tests.app.test_replicate import MODEL
from tests.app.test_replicate import official as replicates_own
from tests.waiting import WAIT_SECONDS

THREE = PARAMETERS | {"seed": 7, "num_images": 3}


class _Meanwhile:
    """The next job comes to this end while the test waits in its client."""

    def __init__(self, worker: ScriptedWorker, end: Callable[[Claim], object]) -> None:
        self._thread = threading.Thread(target=lambda: end(worker.claim()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(WAIT_SECONDS)


def test_a_flagged_picture_says_so(client: httpx2.Client, worker: ScriptedWorker) -> None:
    flagged, harmless, unseen = (send(client) for _ in range(3))
    for nsfw in (True, False, None):
        worker.succeed(worker.claim(), nsfw=nsfw)
    found = [client.get(job["urls"]["self"]).json() for job in (flagged, harmless, unseen)]
    assert [job["images"][0]["nsfw"] for job in found] == [True, False, None]
    assert [job["blocked"] for job in found] == [[], [], []]


def test_some_are_not_shown_and_the_others_are(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, THREE)
    worker.succeed(worker.claim(), blocked=[1])
    seen = client.get(job["urls"]["self"]).json()
    assert seen["status"] == "succeeded"
    assert [(image["index"], image["seed"]) for image in seen["images"]] == [(0, 7), (2, 9)]
    assert seen["blocked"] == [{"index": 1, "seed": 8}]
    images = f"{job['urls']['self']}/images"
    assert [client.get(f"{images}/{index}").status_code for index in range(3)] == [200, 404, 200]


def test_a_job_that_names_a_picture_which_is_not_shown_is_told_so() -> None:
    """And the numbers that there are do not become fewer."""
    shown: Any = SimpleNamespace(index=0)
    record: Any = SimpleNamespace(
        status=Status.SUCCEEDED,
        images=[shown],
        blocked=[SimpleNamespace(index=1)],
        selection=None,
        spec=SimpleNamespace(num_images=3),
    )
    assert _picture_of(record, 0) is shown
    assert _picture_of(record, None) is shown
    shown.index = 2
    assert _picture_of(record, None) is shown, "the first that is there, not number 0"
    shown.index = 0
    for index, words in ((1, "is not shown: the safety checker flagged it"), (3, "must be 0 to 2")):
        with pytest.raises(_Unusable) as refused:
            _picture_of(record, index)
        assert refused.value.below == "/index"
        assert words in refused.value.detail


def test_with_none_left_the_job_has_failed_and_says_why(client: httpx2.Client, worker: ScriptedWorker) -> None:
    """By the status that every client knows as an end, and with a page of its own."""
    job = send(client, THREE)
    worker.block(worker.claim())
    seen = client.get(job["urls"]["self"]).json()
    assert (seen["status"], seen["images"], [each["seed"] for each in seen["blocked"]]) == ("failed", [], [7, 8, 9])
    assert seen["error"]["type"] == "/problems/content-blocked"
    assert seen["error"]["detail"].startswith("NSFW content detected")
    page = client.get(seen["error"]["type"])
    assert page.status_code == 200
    assert "safety checker" in page.text
    assert "/problems/content-blocked" in client.get(job["urls"]["events"]).text


def test_the_same_job_is_not_run_again(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    """Its seed would draw the same pictures, and they would be flagged again, for the same price."""
    job = send(client, THREE)
    worker.block(worker.claim())
    answer = client.post(f"{job['urls']['self']}/retry")
    assert problem(answer) == (409, "job-not-retryable")
    assert "same seed" in answer.json()["detail"]
    assert len(redis_client.keys(f"{keys.JOB}*")) == 1


def test_openai_has_a_word_for_it(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    worker.announce()
    with official(running, max_retries=2) as client:
        with _Meanwhile(worker, worker.block), pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a red circle")
        assert (caught.value.code, caught.value.type) == ("moderation_blocked", "image_generation_user_error")
        assert "NSFW content detected" in caught.value.message
        assert len(redis_client.keys(f"{keys.JOB}*")) == 1, "it was not tried again"
        with (
            _Meanwhile(worker, worker.block),
            client.images.generate(prompt="a red circle", stream=True) as stream,
            pytest.raises(openai.APIError) as streamed,
        ):
            list(stream)
        assert streamed.value.code == "moderation_blocked"
        with _Meanwhile(worker, lambda claim: worker.succeed(claim, blocked=[0], warnings=("Not shown.",))):
            answer: Any = client.images.generate(prompt="a red circle", n=2, extra_body={"seed": 7})
    assert [image.seed for image in answer.data] == [8]
    assert answer.warnings == ["Not shown."]


def test_replicate_has_a_sentence_for_it(running: Running, worker: ScriptedWorker) -> None:
    worker.announce()
    with replicates_own(running) as client:
        with _Meanwhile(worker, worker.block), pytest.raises(ModelError, match="NSFW content detected") as caught:
            client.run(MODEL, input={"prompt": "a red circle"})
        assert caught.value.prediction.status == "failed"
        with _Meanwhile(worker, lambda claim: worker.succeed(claim, blocked=[0])):
            prediction = client.predictions.create(version=MODEL, input={"prompt": "a red circle", "num_outputs": 2})
        prediction.wait()
    assert (prediction.status, len(prediction.output or [])) == ("succeeded", 1)
    assert "NSFW content detected in image 0\n" in (prediction.logs or "")
