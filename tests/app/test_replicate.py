"""Replicate's own client against a real gateway."""

from __future__ import annotations

import base64
import datetime
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import Webhooks

from app.contract.messages.job import Record
from app.contract.redis import keys
from app.webhooks.main import viewer
from app.webhooks.sign import signed_headers
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY
from tests.waiting import WAIT_SECONDS, until

MODEL = "darkroom/starter"
VERSION = "0" * 64
PICTURE = b"not really a PNG"
PARAMETERS = {"prompt": "a red circle", "seed": 7}


@contextmanager
def official(running: Running, token: str = "any") -> Iterator[Client]:
    client = Client(api_token=token, base_url=running.url)
    client.poll_interval = 0.02
    yield client
    client._client.close()


@pytest.fixture
def client(running: Running, worker: ScriptedWorker) -> Iterator[Client]:
    worker.announce()
    with official(running) as client:
        yield client


@pytest.fixture
def drawing(worker: ScriptedWorker) -> Iterator[Callable[[], Future[Any]]]:
    """Draws the next job while the test waits in its client."""
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(lambda: worker.succeed(worker.claim()))


@pytest.mark.parametrize("reference", [MODEL, f"{MODEL}:{VERSION}"])
def test_run_gives_files(client: Client, drawing: Callable[[], Future[Any]], reference: str) -> None:
    drawing()
    first, second = client.run(reference, input=PARAMETERS | {"num_outputs": 2})
    assert first.read() == second.read() == PICTURE


def test_run_that_waits_by_polling(client: Client, drawing: Callable[[], Future[Any]]) -> None:
    drawing()
    [file] = client.run(MODEL, input=PARAMETERS, wait=False)
    assert file.read() == PICTURE


def test_run_goes_on_polling_when_its_wait_is_over(
    client: Client, worker: ScriptedWorker, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client leaves half a second for the answer to a wait, which a busy machine may need for itself.
    monkeypatch.setattr("replicate.prediction._create_prediction_timeout", lambda **_: WAIT_SECONDS)
    answered = threading.Event()
    client._client.event_hooks = {"response": [lambda response: answered.set()]}

    def draw_late() -> None:
        claim = worker.claim()
        worker.progress(claim, 5)
        answered.wait(WAIT_SECONDS)
        worker.succeed(claim)

    late = threading.Thread(target=draw_late)
    late.start()
    [file] = client.run(MODEL, input=PARAMETERS, wait=1)
    late.join()
    assert file.read() == PICTURE


def test_run_of_a_job_that_fails(client: Client, worker: ScriptedWorker) -> None:
    failing = threading.Thread(target=lambda: worker.fail(worker.claim()))
    failing.start()
    with pytest.raises(ModelError, match=r"Values overflowed\.") as caught:
        client.run(MODEL, input=PARAMETERS)
    failing.join()
    assert caught.value.prediction.status == "failed"


def test_the_life_of_a_prediction(client: Client, worker: ScriptedWorker) -> None:
    prediction = client.predictions.create(version=MODEL, input=PARAMETERS | {"scheduler": "K_EULER"})
    assert (prediction.status, prediction.model, prediction.version) == ("starting", MODEL, VERSION)
    assert prediction.input is not None
    assert (prediction.input["seed"], prediction.input["scheduler"]) == (7, "euler")
    assert (prediction.output, prediction.error, prediction.progress) == (None, None, None)
    claim = worker.claim()
    worker.progress(claim, 5)
    prediction.reload()
    assert prediction.status == "processing"
    assert prediction.progress is not None
    assert (prediction.progress.percentage, prediction.progress.current, prediction.progress.total) == (0.25, 5, 20)
    worker.progress(claim, 10, "decoder")
    prediction.reload()
    assert prediction.progress is not None
    assert (prediction.progress.percentage, prediction.progress.current) == (0.5, 10)
    assert prediction.logs.endswith(" 10/20, decoder\n")
    worker.succeed(claim)
    prediction.wait()
    assert (prediction.status, len(prediction.output or [])) == ("succeeded", 1)
    assert (prediction.metrics or {})["total_time"] >= (prediction.metrics or {})["predict_time"]
    assert prediction.created_at <= prediction.started_at <= prediction.completed_at  # type: ignore[operator]
    assert client.predictions.get(prediction.id).output == prediction.output


def test_cancel_twice_and_after_the_end(client: Client, worker: ScriptedWorker) -> None:
    prediction = client.predictions.create(version=VERSION, input=PARAMETERS)
    prediction.cancel()
    assert prediction.status == "canceled"
    prediction.cancel()
    over = client.predictions.create(version=VERSION, input=PARAMETERS)
    worker.succeed(worker.claim())
    over.cancel()
    assert over.status == "succeeded"


def test_the_list_page_by_page(client: Client, running: Running) -> None:
    sent = {client.predictions.create(version=f"{MODEL}:{VERSION}", input=PARAMETERS).id for _ in range(101)}
    first = client.predictions.list()
    assert (len(first), first.previous, (first.next or "").startswith(running.url)) == (100, None, True)
    second = client.predictions.list(first.next)  # type: ignore[arg-type]
    assert (len(second), second.next) == (1, None)
    assert {prediction.id for prediction in (*first, *second)} == sent


def test_a_stream(client: Client, worker: ScriptedWorker) -> None:
    prediction = client.predictions.create(version=VERSION, input=PARAMETERS, stream=True)
    events = prediction.stream()
    assert (next(events).event.value, prediction.status) == ("logs", "starting")
    claim = worker.claim()
    worker.progress(claim, 10)
    assert next(events).data.strip() == "50%|#####     | 10/20"
    worker.progress(claim, 12, "decoder")
    assert next(events).data.strip() == "60%|######    | 12/20, decoder"
    worker.succeed(claim)
    rest = list(events)
    assert [event.event.value for event in rest] == ["output", "done"]
    assert all(event.id for event in rest)
    output: Any = rest[0].data
    assert output.read() == PICTURE


def test_a_stream_of_a_failure(client: Client, worker: ScriptedWorker) -> None:
    prediction = client.predictions.create(version=VERSION, input=PARAMETERS)
    worker.fail(worker.claim())
    with pytest.raises(RuntimeError, match=r"Values overflowed\."):
        list(prediction.stream())


def test_a_stream_resumes_where_it_broke_off(client: Client, worker: ScriptedWorker, running: Running) -> None:
    prediction = client.predictions.create(version=VERSION, input=PARAMETERS)
    claim = worker.claim()
    for step in (5, 10):
        worker.progress(claim, step)
    worker.succeed(claim)
    path = f"/v1/predictions/{prediction.id}/stream"
    whole = running.client.get(path).text.split("\n\n")
    ids = [line.removeprefix("id: ") for part in whole for line in part.split("\n") if line.startswith("id: ")]
    resumed = running.client.get(path, headers={"Last-Event-ID": ids[1]}).text.split("\n\n")
    assert resumed == whole[2:]
    assert running.client.get(path, headers={"Last-Event-ID": ids[-1]}).status_code == 204


def test_words_of_other_models(client: Client, running: Running) -> None:
    """What apps send that were written for some model on Replicate."""
    words = {"prompt": "a red circle", "num_outputs": 2, "aspect_ratio": "16:9", "output_format": "jpg"}
    words |= {"output_quality": 80, "num_inference_steps": 20.0, "seed": None, "negative_prompt": None}
    made = client.predictions.create(version=MODEL, input=words).input or {}
    assert (made["width"], made["height"], made["num_images"]) == (168, 96, 2)
    assert (made["output_format"], made["output_quality"], made["num_inference_steps"]) == ("jpeg", 80, 20)
    custom = {"prompt": "a", "aspect_ratio": "custom", "size": "64x96", "output_format": "png", "output_quality": 80}
    made = client.predictions.create(version=MODEL, input=custom | {"negative_prompt": ""}).input or {}
    assert (made["width"], made["height"], made["output_quality"]) == (64, 96, None)
    assert made["negative_prompt"] is None, "an empty field of a form is none"
    of_sdxl = {"refine": "expert_ensemble_refiner", "apply_watermark": False, "high_noise_frac": 0.8, "lora_scale": 0.6}
    of_flux = {"go_fast": True, "megapixels": "1", "disable_safety_checker": False}
    made = client.predictions.create(version=MODEL, input={"prompt": "a"} | of_sdxl | of_flux)
    assert made.status == "starting"
    assert not {*of_sdxl, *of_flux} & {*(made.input or {})}, "they have no effect"


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"num_outputs": 2, "num_images": 3}, "/input/num_images"),
        ({"num_outputs": 5}, "/input/num_outputs"),
        ({"size": "129x128"}, "/input/size"),
        ({"size": "64x64", "width": 128}, "/input/width"),
        ({"aspect_ratio": "1:1", "size": "64x64"}, "/input/aspect_ratio"),
        ({"aspect_ratio": "99:1"}, "/input/aspect_ratio"),
        ({"stepz": 3}, "/input/stepz"),
    ],
)
def test_words_that_cannot_be(client: Client, running: Running, said: dict[str, Any], pointer: str) -> None:
    body = {"input": {"prompt": "a", **said}}
    errors = running.client.post(f"/v1/models/{MODEL}/predictions", json=body).json()["errors"]
    assert pointer in [error["pointer"] for error in errors]


@pytest.mark.parametrize("reference", [MODEL, VERSION, f"{MODEL}:{VERSION}", "starter"])
def test_a_model_without_a_version(client: Client, running: Running, reference: str) -> None:
    made = running.client.post("/v1/predictions", json={"model": reference, "input": PARAMETERS, "version": None})
    assert (made.status_code, made.json()["model"]) == (201, MODEL)


def test_a_model_that_is_not_the_versions(client: Client, running: Running, worker: ScriptedWorker) -> None:
    worker.ownership.announce(worker.card.model_copy(update={"name": "other", "sha256": "1" * 64}), "w2")
    until(lambda: "other" in running.client.get("/v1/models").text)
    said = {"model": "darkroom/other", "version": VERSION, "input": PARAMETERS}
    answer = running.client.post("/v1/predictions", json=said)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/model"]
    unknown = running.client.post("/v1/predictions", json={"model": "darkroom/zanzibar", "input": PARAMETERS})
    assert [(error["pointer"], error["code"]) for error in unknown.json()["errors"]] == [("/model", "model_unknown")]


def test_the_schema_of_a_version_builds_a_form(client: Client) -> None:
    """The prompt first, one field for one thing, types as OpenAPI 3.0 writes them."""
    version = client.models.get(MODEL).latest_version
    assert version is not None
    fields = version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    order = sorted(fields, key=lambda name: fields[name]["x-order"])
    assert (order[0], fields["num_outputs"]["type"]) == ("prompt", "integer")
    assert sorted(field["x-order"] for field in fields.values()) == list(range(len(fields)))
    assert not {"num_images", "size", "webhook", "model", "refine"} & set(fields)
    assert all(
        "type" in field and "anyOf" not in field and field.get("default", 0) is not None for field in fields.values()
    )
    assert fields["width"]["default"] == 128


def test_models_and_versions(client: Client) -> None:
    model = client.models.get(MODEL)
    assert (model.id, model.latest_version and model.latest_version.id) == (MODEL, VERSION)
    [version] = model.versions.list()
    schemas = version.openapi_schema["components"]["schemas"]
    assert schemas["Input"]["properties"]["num_inference_steps"]["default"] == 20
    assert "webhook" not in schemas["Input"]["properties"]
    assert schemas["Output"]["items"]["format"] == "uri"


@pytest.mark.parametrize(
    ("reference", "parameters", "status", "slug"),
    [
        ("darkroom/unknown", PARAMETERS, 404, "model-not-found"),
        ("somebody/starter", PARAMETERS, 404, "model-not-found"),
        (f"{MODEL}:{'1' * 64}", PARAMETERS, 422, "invalid-request"),
        (MODEL, {"prompt": ""}, 422, "invalid-request"),
        (MODEL, {"prompt": "a", "width": 129}, 422, "invalid-request"),
        (MODEL, {"prompt": "a", "stepz": 1}, 422, "invalid-request"),
    ],
)
def test_refusals(client: Client, reference: str, parameters: dict[str, Any], status: int, slug: str) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.run(reference, input=parameters)
    assert (caught.value.status, caught.value.type) == (status, f"/problems/{slug}")
    assert caught.value.title
    assert caught.value.detail
    assert caught.value.instance


def test_pointers_lead_into_the_body(client: Client, running: Running) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/input/width": {"input": {"prompt": "a", "width": 129}},
        "/input/prompt": {"input": {"prompt": ""}},
        "/webhook": {"input": PARAMETERS, "webhook": "https://127.0.0.1/"},
    }
    for pointer, body in bodies.items():
        answer = running.client.post(f"/v1/models/{MODEL}/predictions", json=body)
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_keys(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY},bob:{OTHER_KEY}") as running:
        with official(running, KEY) as ann, official(running, OTHER_KEY) as bob:
            prediction = ann.predictions.create(version=VERSION, input=PARAMETERS)
            for forbidden in (bob.predictions.get, bob.predictions.cancel):
                with pytest.raises(ReplicateError, match="job-not-found"):
                    forbidden(prediction.id)
            assert [len(client.predictions.list()) for client in (ann, bob)] == [1, 0]
            assert ann.webhooks.default.secret().key != bob.webhooks.default.secret().key
        with official(running, "z" * 32) as stranger, pytest.raises(ReplicateError, match="unauthenticated"):
            stranger.predictions.list()


@pytest.mark.parametrize(
    ("asked", "events"),
    [
        ({}, ["job.started", "job.succeeded", "job.failed", "job.canceled"]),
        ({"webhook_events_filter": ["completed"]}, ["job.succeeded", "job.failed", "job.canceled"]),
        ({"webhook_events_filter": ["start", "logs"]}, ["job.started"]),
    ],
)
def test_webhook_words(client: Client, redis_client: redis.Redis, asked: Any, events: list[str]) -> None:
    job = client.predictions.create(version=VERSION, input=PARAMETERS, webhook="https://example.org/hook", **asked)
    fields: Any = redis_client.hgetall(f"{keys.JOB}{job.id}")
    assert '"form":"prediction"' in fields["webhook"]
    assert json.loads(fields["webhook_events"]) == events


def test_a_webhook_with_nothing_to_send_is_none(client: Client, redis_client: redis.Redis) -> None:
    job = client.predictions.create(
        version=VERSION, input=PARAMETERS, webhook="https://example.org/hook", webhook_events_filter=["logs"]
    )
    assert not redis_client.hexists(f"{keys.JOB}{job.id}", "webhook")
    ends = client.predictions.create(version=VERSION, input=PARAMETERS, webhook_completed="https://example.org/hook")
    assert redis_client.hget(f"{keys.JOB}{ends.id}", "webhook")


@pytest.mark.anyio
async def test_a_webhook_carries_the_prediction(
    client: Client, running: Running, worker: ScriptedWorker, picture_folder: Path
) -> None:
    """What the webhook process sends, and that the client's own check takes its signature."""
    created = client.predictions.create(version=VERSION, input=PARAMETERS, webhook="https://example.org/hook")
    worker.succeed(worker.claim())
    services = running.app.state.services
    redis_client = redis.asyncio.Redis.from_url(services.settings.redis_url.get_secret_value(), decode_responses=True)
    async with redis_client:
        fields = await redis_client.hgetall(f"{keys.JOB}{created.id}")
        sent = await viewer(services.settings, redis_client, services.pictures)(Record.from_hash(fields))
    assert (sent["id"], sent["status"], sent["model"]) == (created.id, "succeeded", MODEL)
    [link] = sent["output"]
    assert httpx2.get(running.url + link.split("8000", 1)[1], trust_env=False, timeout=WAIT_SECONDS).content == PICTURE
    secret = client.webhooks.default.secret()
    body = json.dumps(sent)
    moment = datetime.datetime.now(datetime.UTC)
    headers = signed_headers(f"{created.id}/job.succeeded/1", body, [secret.key], at=moment)
    Webhooks.validate(headers=dict(headers), body=body, secret=secret)
    assert base64.b64decode(secret.key.removeprefix("whsec_"))
