"""OpenAI's own client against a real gateway."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
import redis

from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY
from tests.waiting import WAIT_SECONDS, until

PICTURE = b"not really a PNG"


def official(running: Running, **options: Any) -> openai.OpenAI:
    """The client as its documentation sets it up, without proxies from the environment."""
    plain = httpx2.Client(trust_env=False, timeout=WAIT_SECONDS)
    defaults = {"base_url": f"{running.url}/v1", "api_key": "any", "max_retries": 0, "http_client": plain}
    return openai.OpenAI(**(defaults | options))


@pytest.fixture
def client(running: Running, worker: ScriptedWorker) -> Iterator[openai.OpenAI]:
    worker.announce()
    with official(running) as client:
        yield client


@pytest.fixture
def drawing(worker: ScriptedWorker) -> Iterator[Callable[[], Future[Any]]]:
    """Draws the next job while the test waits in its client."""
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(lambda: worker.succeed(worker.claim()))


def test_a_picture_in_base64_and_as_a_link(client: openai.OpenAI, drawing: Callable[[], Future[Any]]) -> None:
    drawing()
    answer = client.images.generate(model="starter", prompt="a red circle", n=2, size="64x128")
    assert answer.data is not None
    for index, image in enumerate(answer.data):
        assert base64.b64decode(image.b64_json or "") == PICTURE
        assert httpx2.get(image.url or "", trust_env=False, timeout=WAIT_SECONDS).content == PICTURE
        assert (image.seed, image.revised_prompt) == (answer.seed + index, None)  # type: ignore[attr-defined]
    assert (len(answer.data), answer.size, answer.output_format, answer.background) == (2, "64x128", "png", "opaque")
    assert answer.created > 1_700_000_000
    assert str(answer.job_id).startswith("job_")  # type: ignore[attr-defined]


def test_an_empty_model_is_none(client: openai.OpenAI, drawing: Callable[[], Future[Any]]) -> None:
    """As programs send it that have a field for the model and leave the choice open."""
    drawing()
    assert client.images.generate(model="", prompt="a red circle").data


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_one_response_format(client: openai.OpenAI, drawing: Callable[[], Future[Any]], form: Any) -> None:
    drawing()
    answer = client.images.generate(prompt="a red circle", response_format=form, size="auto", user="u7")
    assert answer.data is not None
    assert (answer.data[0].url is None, answer.data[0].b64_json is None) == (form == "b64_json", form == "url")


def test_a_gpt_image_model_answers_base64_alone(
    gateway_with: OneGateway, worker: ScriptedWorker, drawing: Callable[[], Future[Any]]
) -> None:
    """open-webui/open-webui, backend/open_webui/routers/images.py: it sends no response_format with a model named so,
    takes `url` where there is one, and refuses addresses of its own network."""
    worker.announce()
    with gateway_with(model_aliases={"gpt-image-1": "starter"}) as running:
        asked = {"model": "gpt-image-1", "prompt": "a red circle", "n": 1, "size": "128x128"}
        for wanted, members in ((None, {"b64_json"}), ("url", {"url"})):
            drawing()
            answer = running.client.post("/v1/images/generations", json=asked | {"response_format": wanted})
            assert answer.json()["data"][0].keys() == members | {"seed"}


def test_our_parameters_go_through_extra_body(
    client: openai.OpenAI, drawing: Callable[[], Future[Any]], running: Running
) -> None:
    drawing()
    ours = {"seed": 7, "num_inference_steps": 9, "scheduler": "euler", "metadata": {"order": "17"}}
    answer = client.images.generate(
        prompt="a red circle", output_format="webp", quality="high", complexity="low", extra_body=ours
    )
    job = running.client.get(f"/v1/jobs/{answer.job_id}").json()  # type: ignore[attr-defined]
    assert {name: job["input"][name] for name in ("seed", "num_inference_steps", "scheduler")} == {
        "seed": 7,
        "num_inference_steps": 9,
        "scheduler": "euler",
    }
    assert (job["metadata"], job["input"]["output_format"]) == ({"order": "17"}, "webp")


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list()
    assert (model.id, model.object, model.owned_by, model.created) == ("starter", "model", "darkroom", 0)


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "blank_prompt"),
        ({"prompt": "a", "size": "129x128"}, "size", "not_a_multiple"),
        ({"prompt": "a", "size": "99999x99999"}, "size", "out_of_range"),
        ({"prompt": "a", "size": "big"}, "size", "string_pattern_mismatch"),
        ({"prompt": "a", "n": 11}, "n", "less_than_equal"),
        ({"prompt": "a", "n": 5}, "n", "out_of_range"),
        ({"prompt": "a", "background": "transparent"}, "background", "literal_error"),
        ({"prompt": "a", "extra_body": {"stepz": 3}}, "stepz", "extra_forbidden"),
        ({"prompt": "a", "n": 1, "extra_body": {"num_images": 2}}, "num_images", "said_twice"),
        ({"prompt": "a" * 32_001}, "prompt", "string_too_long"),
        ({"prompt": "\u200b" * 2_500 + "a"}, "prompt", "blank_prompt"),
        ({"prompt": "a", "output_format": "png", "output_compression": 80}, "output_compression", "no_quality"),
        ({"prompt": "a", "size": "64x64", "extra_body": {"aspect_ratio": "1:1"}}, "aspect_ratio", "said_twice"),
    ],
)
def test_a_wrong_parameter_is_a_bad_request(client: openai.OpenAI, wrong: Any, param: str, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**wrong)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert param in error.message
    assert error.request_id


def test_both_sides_of_a_size_are_told_at_once(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"size \(width\) must be .*; \(height\) must be "):
        client.images.generate(prompt="a", size="1024x1024")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="gpt-image-1", prompt="a red circle")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "starter" in caught.value.message
    assert "`darkroom models alias NAME MODEL`" in caught.value.message, "its program may insist on the name"


def test_keys(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY}") as running:
        with official(running, api_key=OTHER_KEY) as stranger, pytest.raises(openai.AuthenticationError) as caught:
            stranger.images.generate(prompt="a red circle")
        assert caught.value.code == "unauthenticated"
        with official(running, api_key=OTHER_KEY) as stranger, pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert (caught.value.code, "key is not known" in str(caught.value.body)) == ("unauthenticated", True)
        with official(running, api_key=KEY) as ann:
            assert ann.models.list().data[0].id == "starter"


def test_one_model(client: openai.OpenAI) -> None:
    model = client.models.retrieve("starter")
    assert (model.id, model.object, model.owned_by) == ("starter", "model", "darkroom")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-1")


def test_a_prompt_as_long_as_openai_takes_is_cut_with_a_warning(
    client: openai.OpenAI, drawing: Callable[[], Future[Any]], running: Running
) -> None:
    drawing()
    answer = client.images.generate(prompt="a red circle " * 2_400)
    prompt = running.client.get(f"/v1/jobs/{answer.job_id}").json()["input"]["prompt"]  # type: ignore[attr-defined]
    assert answer.data is not None
    assert answer.data[0].revised_prompt == prompt
    assert set(prompt.split()) == {"a", "red", "circle"}
    said = answer.warnings[0]  # type: ignore[attr-defined]
    assert said == f"Only the first {len(prompt):,} characters of the prompt were taken, of 31,200."


def test_the_end_of_a_stream_has_the_warnings_too(client: openai.OpenAI, drawing: Callable[[], Future[Any]]) -> None:
    drawing()
    [event] = client.images.generate(prompt="a red circle " * 200, stream=True)
    cut, own = event.warnings  # type: ignore[union-attr]
    assert cut.startswith("Only the first 1,9")
    assert own == "cut"


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"output_format": "jpeg", "output_compression": 40}, 40),
        ({"output_format": "webp", "output_compression": 0}, 0),
        ({"output_format": "png", "output_compression": 100}, 100),
        ({"output_format": "jpeg"}, None),
    ],
)
def test_output_compression_is_the_quality(
    client: openai.OpenAI, drawing: Callable[[], Future[Any]], running: Running, asked: Any, kept: int | None
) -> None:
    drawing()
    answer = client.images.generate(prompt="a red circle", **asked)
    job = running.client.get(f"/v1/jobs/{answer.job_id}").json()  # type: ignore[attr-defined]
    assert job["input"]["output_quality"] == kept


def test_minus_one_draws_a_seed(client: openai.OpenAI, drawing: Callable[[], Future[Any]]) -> None:
    seeds = []
    for _ in range(2):
        drawing()
        seeds.append(client.images.generate(prompt="a red circle", extra_body={"seed": -1}).seed)  # type: ignore[attr-defined]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0


def test_nulls_and_whole_floats_are_what_they_mean(
    running: Running, worker: ScriptedWorker, drawing: Callable[[], Future[Any]]
) -> None:
    worker.announce()
    drawing()
    body = {"prompt": "a", "n": 1.0, "size": None, "model": None, "output_format": None, "num_inference_steps": 20.0}
    answer = running.client.post("/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["output_format"], len(answer.json()["data"])) == (200, "png", 1)


def test_a_full_queue_is_a_rate_limit(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(queue_limit=1) as running, official(running) as client:
        running.client.post("/v1/jobs", json={"prompt": "first"})
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a red circle")
    assert (caught.value.code, caught.value.type) == ("queue-full", "rate_limit_error")
    assert int(caught.value.response.headers["retry-after"]) <= 120


def test_no_worker_yet_is_a_server_error(running: Running, redis_client: redis.Redis) -> None:
    with official(running) as client, pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="a red circle")
    assert (caught.value.status_code, caught.value.code) == (503, "no-model-yet")


def test_a_failed_job_is_not_tried_again(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    worker.announce()
    failing = threading.Thread(target=lambda: worker.fail(worker.claim()))
    failing.start()
    with official(running, max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="a red circle")
    failing.join()
    assert (caught.value.code, caught.value.message.count("Values overflowed.")) == ("job-failed", 1)
    assert len(redis_client.keys("darkroom:job:*")) == 1


def test_a_canceled_job_is_a_conflict(running: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    worker.announce()

    def call_off() -> None:
        [key] = until(lambda: redis_client.keys("darkroom:job:*"))
        until(lambda: running.client.post(f"/v1/jobs/{key.removeprefix('darkroom:job:')}/cancel").status_code == 200)

    canceling = threading.Thread(target=call_off)
    canceling.start()
    with official(running, max_retries=2) as client, pytest.raises(openai.ConflictError) as caught:
        client.images.generate(prompt="a red circle")
    canceling.join()
    assert caught.value.code == "job-was-canceled"


def test_closing_asks_for_a_retry(closable: Running) -> None:
    with ThreadPoolExecutor() as pool, official(closable) as client:
        waiting = pool.submit(client.images.generate, prompt="a red circle")
        until(lambda: closable.app.state.services.feed.listeners)
        closable.close_soon()
        with pytest.raises(openai.InternalServerError) as caught:
            waiting.result(WAIT_SECONDS)
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("job-unfinished", "1")


def test_a_stream_ends_with_the_pictures(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    with ThreadPoolExecutor() as pool:
        drawn = pool.submit(lambda: worker.succeed(worker.claim()))
        with client.images.generate(prompt="a red circle", n=2, stream=True, partial_images=0) as stream:
            events = list(stream)
        drawn.result(WAIT_SECONDS)
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    completed: Any = events[0]
    assert base64.b64decode(completed.b64_json) == PICTURE
    assert (completed.size, completed.output_format, completed.usage.total_tokens) == ("128x128", "png", 0)
    assert completed.seed + 1 == events[1].seed  # type: ignore[union-attr]


def test_a_stream_shows_pictures_on_the_way(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    """Two of them: after a third of the steps and after two thirds, whatever else the worker shows."""

    def draw_with_previews() -> None:
        claim = worker.claim()
        for step in range(1, 20):
            jpeg = base64.b64encode(b"after %d" % step).decode()
            assert worker.ownership.preview(claim, 0, step, 20, jpeg)
            until(lambda step=step: worker.ownership.progress(claim, step, 20))  # type: ignore[misc]
        worker.succeed(claim)

    with ThreadPoolExecutor() as pool:
        with client.images.generate(prompt="a red circle", stream=True, partial_images=2) as stream:
            first_preview = pool.submit(draw_with_previews)
            events: Any = list(stream)
        first_preview.result(WAIT_SECONDS)
    assert [event.type for event in events][-1] == "image_generation.completed"
    partial = events[:-1]
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 2
    assert all(base64.b64decode(event.b64_json).startswith(b"after ") for event in partial)
    assert {event.output_format for event in partial} == {"jpeg"}


def test_a_stream_says_how_its_job_failed(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(lambda: worker.fail(worker.claim()))
        with (
            client.images.generate(prompt="a red circle", stream=True) as stream,
            pytest.raises(openai.APIError, match=r"Values overflowed\."),
        ):
            list(stream)
