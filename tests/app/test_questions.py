"""Jobs that draw nothing, over HTTP: what they are asked by, how they wait, where they are shown, what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis
import redis.asyncio
from PIL import Image

from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError
from app.contract.messages.questions import ScoreSpec
from app.edge.keyring import Keyring
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.scorer import SCORER, ScriptedScorer, scorer_card_of
from tests.waiting import until

TEXTS = ["a red circle", "a yellow star"]


@pytest.fixture
def scorer(client: httpx2.Client, redis_client: redis.Redis, card: ModelCard) -> Iterator[ScriptedScorer]:
    with ScriptedScorer(redis_client, scorer_card_of(card)) as scorer:
        yield scorer


@pytest.fixture
def picture(client: httpx2.Client) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return str(client.post("/v1/inputs", files={"file": ("a.png", file.getvalue())}).raise_for_status().json()["id"])


def pointers(answer: httpx2.Response) -> list[tuple[str | None, str]]:
    assert answer.status_code == 422, answer.text
    return [(error.get("pointer"), error["code"]) for error in answer.json()["errors"]]


def test_texts_are_scored_and_the_job_is_one_like_any_other(
    client: httpx2.Client, scorer: ScriptedScorer, picture: str
) -> None:
    body = {
        "images": [{"input": picture}] * 2,
        "texts": TEXTS,
        "template": "a photo of {}",
        "metadata": {"order": "17"},
    }
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "score"
    assert (found["model"], found["model_sha256"]) == (SCORER, "1" * 64)
    assert found["texts"] == ["a photo of a red circle", "a photo of a yellow star"]
    assert found["cosine"] == [[0.5, 0.4], [0.5, 0.4]]
    assert found["probability"] == [[0.9, 0.1], [0.9, 0.1]]
    assert (found["logit_scale"], found["logit_bias"], found["warnings"]) == (100.0, None, ["cut"])
    job = client.get(answer.headers["location"]).json()
    assert (job["id"], job["status"], job["task"]) == (found["job_id"], "succeeded", "score")
    assert job["input"]["texts"] == found["texts"]
    assert [each["width"] for each in job["input"]["images"]] == [8, 8]
    assert job["result"]["cosine"] == found["cosine"]
    assert (job["images"], job["metadata"]) == ([], {"order": "17"})
    assert (job["progress"]["step"], job["progress"]["steps"], job["progress"]["images_done"]) == (1, 1, 0)
    [claim] = scorer.claims
    assert claim.spec.num_images == 0
    events = client.get(f"/v1/jobs/{job['id']}/events").text
    assert '"logit_scale": 100.0' in events


def test_lists_can_be_asked_for_one_task_and_leave_results_out(
    client: httpx2.Client, worker: ScriptedWorker, scorer: ScriptedScorer
) -> None:
    drawn = [client.post("/v1/jobs", json={"prompt": f"a {n}"}).json()["id"] for n in range(3)]
    asked = [client.post("/v1/embeddings", json={"input": f"a {n}"}).json()["job_id"] for n in range(3)]
    drawn.append(client.post("/v1/jobs", json={"prompt": "the last"}).json()["id"])

    def listed(**query: Any) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=query).json()["data"]]

    everything = listed()
    assert set(everything) == {*drawn, *asked}
    drawings, questions = ([each for each in everything if each in ids] for ids in (drawn, asked))
    assert listed(task="embed") == listed(task="embed", status="succeeded") == questions
    assert listed(task="draw") == listed(task="draw", status="queued") == drawings
    assert listed(task="score") == []
    assert listed(task="embed", id_prefix=asked[0][:20]) == asked[:1]
    page = client.get("/v1/jobs", params={"task": "draw", "limit": 2}).json()
    rest = client.get("/v1/jobs", params={"task": "draw", "limit": 2, "cursor": page["next_cursor"]}).json()
    assert [job["id"] for job in page["data"] + rest["data"]] == drawings
    assert rest["next_cursor"] is None
    assert {job["result"] for job in client.get("/v1/jobs").json()["data"]} == {None}
    assert {job["task"] for job in page["data"]} == {"draw"}
    # No prediction, and no picture to begin with.
    assert [each["id"] for each in client.get("/v1/predictions").json()["results"]] == drawings
    assert client.get(f"/v1/predictions/{asked[0]}").status_code == 404
    refused = client.post("/v1/score", json={"images": [{"job": asked[0]}], "texts": TEXTS})
    assert pointers(refused) == [("/images/0/job", "no_pictures")]


def test_a_picture_is_named_in_every_way(client: httpx2.Client, scorer: ScriptedScorer, picture: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "blue").save(file, "PNG")
    sent = client.get(f"/v1/inputs/{picture}").json()
    ways = [{"input": picture}, {"sha256": sent["sha256"]}, {"b64": base64.b64encode(file.getvalue()).decode()}]
    answer = client.post("/v1/score", json={"images": ways, "texts": TEXTS})
    assert answer.status_code == 200, answer.text
    assert [each.width for each in scorer.claims[0].pictures] == [8, 8, 9]
    unknown = [{"input": "in_" + "0" * 24}, {"job": "job_" + "0" * 24}, {"url": "http://127.0.0.1:1/a.png"}]
    assert pointers(client.post("/v1/score", json={"images": unknown, "texts": TEXTS})) == [
        ("/images/0/input", "input_not_found"),
        ("/images/1/job", "job_not_found"),
        ("/images/2/url", "not_fetched"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("score", {"texts": ["a"] * 33}, ("/texts", "too_long")),
        ("score", {"texts": []}, ("/texts", "too_short")),
        ("score", {"texts": [" "]}, ("/texts/0", "blank_prompt")),
        ("score", {"template": "a photo"}, ("/template", "no_place")),
        ("score", {"template": "{} and {}"}, ("/template", "no_place")),
        ("score", {"images": []}, ("/images", "too_short")),
        ("score", {"images": [{}]}, ("/images/0", "not_one_picture")),
        ("score", {"model": "starter"}, ("/model", "task_unknown")),
        ("score", {"model": "nobody"}, ("/model", "model_unknown")),
        ("jobs", {"prompt": "a frog", "model": SCORER}, ("/model", "task_unknown")),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_refused_where_it_stands(
    client: httpx2.Client, scorer: ScriptedScorer, picture: str, path: str, body: dict[str, Any], expected: Any
) -> None:
    whole = {"images": [{"input": picture}], "texts": TEXTS} if path == "score" else {}
    assert pointers(client.post(f"/v1/{path}", json=whole | body)) == [expected]
    assert scorer.claims == []


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": [1, 2, 3]}, "input", "must be text: token ids of another tokenizer mean nothing to this model"),
        ({"input": [[1, 2], [3]]}, "input", "must be text: token ids"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["a"] * 129}, "input", "at most 128 items"),
        ({"input": ["a", ""]}, "input.1.text", "must contain a visible character"),
        ({"input": {"text": "a"}}, "input", "valid list"),
        ({"input": [{}]}, "input.0", "must be a text, or an object with image or text"),
        ({"input": "a", "dimensions": 512}, "dimensions", "must be 2, as tiny-scorer has it, or be left out"),
        ({"input": "a", "space": "image"}, "space", "tiny-scorer has no prior"),
        ({"input": "a", "seed": 7}, "seed", "goes with space image"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "model": "starter"}, "model", "does not embed: starter does text-to-image"),
    ],
    ids=str,
)
def test_what_cannot_be_embedded_is_refused_in_openais_words(
    client: httpx2.Client, scorer: ScriptedScorer, body: dict[str, Any], param: str, said: str
) -> None:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]


def test_embeddings_have_openais_shape(client: httpx2.Client, scorer: ScriptedScorer, picture: str) -> None:
    body = {"model": SCORER, "input": ["a red circle", {"image": {"input": picture}}], "dimensions": 2}
    found = client.post("/v1/embeddings", json=body).raise_for_status().json()
    assert [each["index"] for each in found["data"]] == [0, 1]
    assert [each["embedding"] for each in found["data"]] == [pytest.approx([0.6, 0.8])] * 2
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (found["object"], found["model"], found["dimensions"]) == ("list", SCORER, 2)
    short = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    assert struct.unpack("<2f", base64.b64decode(short["data"][0]["embedding"])) == pytest.approx((0.6, 0.8))


def test_labels_come_back_the_likeliest_first(client: httpx2.Client, scorer: ScriptedScorer) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    b64, labels = base64.b64encode(file.getvalue()).decode(), ["frog", "panda"]
    path = "/v1/zero-shot-image-classification"
    answer = client.post(path, json={"inputs": b64, "parameters": {"candidate_labels": labels}})
    assert answer.raise_for_status().json() == [{"label": "frog", "score": 0.9}, {"label": "panda", "score": 0.1}]
    question = scorer.claims[0].question
    assert isinstance(question, ScoreSpec)
    assert question.texts == ("This is a photo of frog.", "This is a photo of panda.")
    asked = {"candidate_labels": labels, "hypothesis_template": "{}!"}
    as_javascript = {"inputs": {"image": b64}, "parameters": asked}
    client.post(path, params={"model": SCORER}, json=as_javascript).raise_for_status()
    assert scorer.claims[1].question.texts == ("frog!", "panda!")  # type: ignore[union-attr]
    refused = client.post(path, json={"inputs": "no picture", "parameters": {"candidate_labels": labels}})
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("inputs is no base64")
    large = {"inputs": {"image": "zanzibar" * 9_000}, "parameters": {"candidate_labels": labels}}
    assert client.post(path, json=large).json()["error"].startswith("inputs is no PNG")
    refused = client.post(path, json={"inputs": {"image": b64, "x": 1}, "parameters": {"candidate_labels": labels}})
    assert (refused.status_code, refused.json()["error"]) == (422, "inputs Input should be a valid string")
    asked = {"candidate_labels": labels, "hypothesis_template": "a photo"}
    refused = client.post(path, json={"inputs": b64, "parameters": asked})
    assert "parameters/hypothesis_template must have the place {}" in refused.json()["error"]


def test_a_question_waits_ten_seconds_by_itself_and_as_long_as_is_said(
    client: httpx2.Client, scorer: ScriptedScorer, picture: str
) -> None:
    body = {"images": [{"input": picture}], "texts": TEXTS}
    scorer.may_answer.clear()
    accepted = client.post("/v1/score", json=body, headers={"Prefer": "wait=0"})
    assert accepted.status_code == 202
    assert accepted.json()["task"] == "score"
    late = client.post("/v1/score", json=body, headers={"Prefer": "wait=1"})
    assert (late.status_code, late.headers["preference-applied"]) == (202, "wait=1")
    assert late.json()["status"] in ("queued", "running")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, "/v1/score", json=body)
        until(lambda: len(client.get("/v1/jobs", params={"task": "score"}).json()["data"]) == 3)
        scorer.may_answer.set()
        assert waiting.result().json()["cosine"] == [[0.5, 0.4]]
        assert waiting.result().headers["preference-applied"] == "wait=10"


def test_a_question_is_called_off_and_repeated_like_any_job(
    client: httpx2.Client, scorer: ScriptedScorer, picture: str
) -> None:
    scorer.may_answer.clear()
    body = {"images": [{"input": picture}], "texts": TEXTS}
    first = client.post("/v1/score", json=body, headers={"Prefer": "wait=0", "Idempotency-Key": "k"})
    until(lambda: scorer.claims)
    second = client.post("/v1/score", json=body, headers={"Prefer": "wait=0"}).json()
    assert client.post(f"/v1/jobs/{second['id']}/cancel").json()["status"] == "canceled"
    # Needed by a job that is not over.
    assert client.delete(f"/v1/inputs/{picture}").status_code == 409
    scorer.may_answer.set()
    again = client.post("/v1/score", json=body, headers={"Idempotency-Key": "k"})
    assert (again.json()["job_id"], again.headers["idempotency-replayed"]) == (first.json()["id"], "true")
    other = client.post("/v1/embeddings", json={"input": "a"}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "idempotency-key-reused"


def test_a_question_that_failed_says_why_and_can_be_asked_again(
    client: httpx2.Client, scorer: ScriptedScorer, picture: str
) -> None:
    scorer.fails = JobError(slug="numerical-error", detail="The scorer's numbers overflowed.")
    answer = client.post("/v1/score", json={"images": [{"input": picture}], "texts": TEXTS})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/job-failed")
    assert answer.json()["detail"] == "The scorer's numbers overflowed."
    [failed] = client.get("/v1/jobs", params={"task": "score"}).json()["data"]
    scorer.fails = None
    again = client.post(f"/v1/jobs/{failed['id']}/retry").json()
    done = client.get(f"/v1/jobs/{again['id']}", params={"wait": 10}).json()
    until(lambda: client.get(f"/v1/jobs/{again['id']}").json()["status"] == "succeeded")
    done = client.get(f"/v1/jobs/{again['id']}").json()
    assert (done["task"], done["input"]["texts"]) == ("score", TEXTS)
    assert done["result"]["cosine"] == [[0.5, 0.4]]


def test_a_scorer_is_listed_and_never_offered_for_drawing(
    client: httpx2.Client, worker: ScriptedWorker, scorer: ScriptedScorer
) -> None:
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert models.keys() == {"starter", SCORER}
    assert models[SCORER]["tasks"] == ["score", "embed"]
    assert models[SCORER]["embedding_dimensions"] == 2
    assert [name for name, model in models.items() if model["default"]] == ["starter"]
    assert client.post("/v1/jobs", json={"prompt": "a frog"}).json()["model"] == "starter"
    assert [each["model_name"] for each in client.get("/sdapi/v1/sd-models").json()] == ["starter"]
    assert client.get(f"/v1/models/darkroom/{SCORER}").status_code == 404
    refused = client.post("/v1/predictions", json={"version": SCORER, "input": {"prompt": "a frog"}})
    assert refused.status_code == 422
    asked = {"prompt": "a frog", "override_settings": {"sd_model_checkpoint": SCORER}}
    assert client.post("/sdapi/v1/txt2img", json=asked).status_code == 422
    refused = client.post("/v1/images/generations", json={"prompt": "a frog", "model": SCORER})
    assert refused.status_code == 400
    assert "draws nothing: tiny-scorer does score, embed" in refused.json()["error"]["message"]
    assert client.get("/readyz").json()["checks"]["workers"]["detail"] == "1 heard of lately"


def test_without_a_scorer_one_is_told_what_is_missing(client: httpx2.Client) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 503
    assert "DARKROOM_SCORER" in answer.json()["error"]["message"]


def test_a_question_costs_little_but_not_nothing(
    gateway_with: OneGateway, redis_client: redis.Redis, valkey_url: str, card: ModelCard
) -> None:
    """A key that may use three megapixel steps a minute asks three questions."""

    async def key() -> str:
        async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
            return (await Keyring(client).create("ann", cost_per_minute=3))[0]

    headers = {"Authorization": f"Bearer {asyncio.run(key())}"}
    with ScriptedScorer(redis_client, scorer_card_of(card)), gateway_with() as running:
        asked = [running.client.post("/v1/embeddings", json={"input": f"a {n}"}, headers=headers) for n in range(4)]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 429]
    assert asked[3].headers["ratelimit"].startswith('"cost";r=0;t=')
