"""What is refused, and how: a table of bad requests that any client library can send."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import redis
import structlog

from app.contract.messages.params import JobRequest
from tests.app.test_jobs import PARAMETERS

CANARY = "zanzibar"
"""Stands in every bad request, and in no answer."""


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Status and slug of an answer that has the form of every refusal."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 2_048
    assert CANARY not in answer.text + str(answer.headers)
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["instance"] == f"urn:darkroom:request:{answer.headers['x-request-id']}"
    assert {"title", "detail"} <= body.keys()
    return answer.status_code, body["type"].removeprefix("/problems/")


def parameters(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a red circle", "metadata": {"note": CANARY}} | fields).encode()


INVALID: dict[str, tuple[bytes, str]] = {
    "prompt missing": (b'{"seed": 1}', "/prompt"),
    "prompt null": (parameters(prompt=None), "/prompt"),
    "prompt empty": (parameters(prompt=""), "/prompt"),
    "prompt white": (parameters(prompt=" \t\n\u3000"), "/prompt"),
    "prompt zero-width": (parameters(prompt="\u200b\u200d\ufeff"), "/prompt"),
    "prompt too long": (parameters(prompt=CANARY * 251), "/prompt"),
    "prompt with NUL": (parameters(prompt=f"{CANARY}\x00"), "/prompt"),
    "prompt with a lone surrogate": (b'{"prompt": "zanzibar \\ud800"}', "/prompt"),
    "prompt a number": (parameters(prompt=7), "/prompt"),
    "negative prompt with NUL": (parameters(negative_prompt="\x00"), "/negative_prompt"),
    "steps zero": (parameters(num_inference_steps=0), "/num_inference_steps"),
    "steps negative": (parameters(num_inference_steps=-1), "/num_inference_steps"),
    "steps huge": (parameters(num_inference_steps=10**9), "/num_inference_steps"),
    "steps over the card": (parameters(num_inference_steps=101), "/num_inference_steps"),
    "steps a fraction": (parameters(num_inference_steps=4.5), "/num_inference_steps"),
    "steps a whole float too large to be exact": (parameters(num_inference_steps=1e16), "/num_inference_steps"),
    "steps a string": (parameters(num_inference_steps="20"), "/num_inference_steps"),
    "steps true": (parameters(num_inference_steps=True), "/num_inference_steps"),
    "guidance negative": (parameters(guidance_scale=-0.1), "/guidance_scale"),
    "guidance over the card": (parameters(guidance_scale=20.1), "/guidance_scale"),
    "guidance a string": (parameters(guidance_scale="7"), "/guidance_scale"),
    "width zero": (parameters(width=0), "/width"),
    "width negative": (parameters(width=-128), "/width"),
    "width no multiple": (parameters(width=129), "/width"),
    "width huge": (parameters(width=2**40), "/width"),
    "width beyond all integers": (b'{"prompt": "a", "width": 1' + b"0" * 4_000 + b"}", "/width"),
    "height over the card": (parameters(height=512), "/height"),
    "too much work": (parameters(width=256, height=256, num_images=4, num_inference_steps=51), ""),
    "images huge": (parameters(num_images=10**9), "/num_images"),
    "images over the card": (parameters(num_images=5), "/num_images"),
    "seed negative": (parameters(seed=-2), "/seed"),
    "model empty": (parameters(model=""), "/model"),
    "scheduler empty": (parameters(scheduler=""), "/scheduler"),
    "a ratio empty": (parameters(aspect_ratio=""), "/aspect_ratio"),
    "a ratio of letters": (parameters(aspect_ratio=CANARY), "/aspect_ratio"),
    "a ratio beyond the card": (parameters(aspect_ratio="99:1"), "/aspect_ratio"),
    "a ratio beside a side": (parameters(aspect_ratio="1:1", width=128), "/aspect_ratio"),
    "quality over 100": (parameters(output_format="jpeg", output_quality=101), "/output_quality"),
    "quality of a png": (parameters(output_quality=80), "/output_quality"),
    "seed 2^63": (parameters(seed=2**63), "/seed"),
    "last seed and one more picture": (parameters(seed=2**63 - 1, num_images=2), "/seed"),
    "seed true": (parameters(seed=True), "/seed"),
    "scheduler unknown": (parameters(scheduler=CANARY), "/scheduler"),
    "format unknown": (parameters(output_format="bmp"), "/output_format"),
    "model unknown": (parameters(model=CANARY), "/model"),
    "model a path": (parameters(model="../../etc/zanzibar"), "/model"),
    "model a hub id": (parameters(model="zanzibar/stable-diffusion"), "/model"),
    "unknown field": (parameters(stepz=3), "/stepz"),
    "field __proto__": (parameters(__proto__={"x": CANARY}), "/__proto__"),
    "field tenant": (parameters(tenant="other"), "/tenant"),
    "field status": (parameters(status="succeeded"), "/status"),
    "field id": (parameters(id="job_000000000000000000000000"), "/id"),
    "unknown field of a strange name": (parameters(**{f"{CANARY} <script>": 1}), ""),
    "unknown field of a surrogate name": (b'{"prompt": "a", "\\ud800": 1}', ""),
    "metadata a list": (parameters(metadata=[CANARY]), "/metadata"),
    "metadata nested": (parameters(metadata={"a": {"b": CANARY}}), "/metadata/a"),
    "metadata long": (parameters(metadata={"a": CANARY * 100}), "/metadata/a"),
    "metadata many": (parameters(metadata={str(n): "" for n in range(17)}), "/metadata"),
    "webhook to the neighbours": (parameters(webhook={"url": "https://127.0.0.1/zanzibar"}), "/webhook/url"),
    "webhook without tls": (parameters(webhook={"url": "http://example.org/zanzibar"}), "/webhook/url"),
    "webhook with a password": (parameters(webhook={"url": "https://u:zanzibar@example.org/"}), "/webhook/url"),
    "webhook null in its url": (parameters(webhook={"url": None}), "/webhook/url"),
    "webhook for nothing": (parameters(webhook={"url": "https://example.org/", "events": []}), "/webhook/events"),
    "webhook event unknown": (
        parameters(webhook={"url": "https://example.org/", "events": [CANARY]}),
        "/webhook/events/0",
    ),
    "a list": (b'["zanzibar"]', ""),
    "null": (b"null", ""),
    "a string": (b'"zanzibar"', ""),
}


@pytest.mark.parametrize("case", list(INVALID))
def test_invalid_requests(client: httpx2.Client, redis_client: redis.Redis, case: str) -> None:
    body, pointer = INVALID[case]
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "invalid-request")
    errors = answer.json()["errors"]
    assert pointer in [error["pointer"] for error in errors]
    assert all(error["code"] and error["detail"] for error in errors)
    assert redis_client.keys("darkroom:job:*") == []


def test_null_is_not_given(client: httpx2.Client) -> None:
    """In every body, at every optional parameter; a form that was left empty is as good as none."""
    given = {name: None for name in JobRequest.model_fields if name != "prompt"}
    job = client.post("/v1/jobs", json={"prompt": "a", **given}).raise_for_status().json()
    plain = client.post("/v1/jobs", json={"prompt": "a"}).raise_for_status().json()
    assert {**job["input"], "seed": 0} == {**plain["input"], "seed": 0}
    assert client.post("/v1/jobs", json={"prompt": "a", "mask": None}).status_code == 202
    hook = {"url": "https://example.org/", "events": None, "headers": None}
    assert client.post("/v1/jobs", json={"prompt": "a", "webhook": hook}).status_code == 202
    assert client.post("/v1/jobs/cancel", json={"status": None, "metadata": None}).status_code == 200


@pytest.mark.parametrize("name", ["model", "scheduler"])
def test_an_empty_name_is_told_what_to_do(client: httpx2.Client, name: str) -> None:
    """A variable that its program left empty is no request for the default."""
    refused = client.post("/v1/jobs", json={"prompt": "a", name: ""}).json()
    error = {
        "pointer": f"/{name}",
        "code": "empty_name",
        "detail": "is empty; leave it out for the default",
    }
    assert refused["errors"] == [error]


def test_two_bodies_with_and_without_nulls_are_one_request(client: httpx2.Client) -> None:
    bodies = [{"prompt": "a"}, {"prompt": "a", "seed": -1, "num_images": None, "width": None}]
    answers = [client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "order-17"}).json() for body in bodies]
    assert answers[0]["id"] == answers[1]["id"]


def test_other_ways_to_write_the_same(client: httpx2.Client) -> None:
    body = {"num_inference_steps": 20.0, "width": 64.0, "seed": 7.0, "output_format": "jpg", "output_quality": 80.0}
    job = client.post("/v1/jobs", json={"prompt": "a", **body}).raise_for_status().json()
    seen = {name: job["input"][name] for name in body}
    assert seen == {name: int(value) if value != "jpg" else "jpeg" for name, value in body.items()}
    assert {type(value) for value in seen.values()} == {int, str}


@pytest.mark.parametrize(("ratio", "sides"), [("1:1", (128, 128)), ("16:9", (168, 96)), ("9:16", (96, 168))])
def test_a_ratio_has_the_pixels_of_the_models_own_size(
    client: httpx2.Client, ratio: str, sides: tuple[int, int]
) -> None:
    job = client.post("/v1/jobs", json={"prompt": "a", "aspect_ratio": ratio}).raise_for_status().json()
    assert (job["input"]["width"], job["input"]["height"]) == sides


def test_a_form_is_told_by_an_example(client: httpx2.Client) -> None:
    """And not by a regular expression."""
    for path, body, example in (
        ("/v1/jobs", {"aspect_ratio": "1.5"}, "such as 16:9"),
        ("/v1/images/generations", {"size": "512"}, "such as 512x512"),
    ):
        said = client.post(path, json={"prompt": "a", **body}).text
        assert example in said
        assert "pattern '" not in said


def test_an_empty_body_asks_for_one(client: httpx2.Client) -> None:
    answer = client.post("/v1/jobs", headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["detail"] == "a JSON body is needed"


def test_an_avalanche_of_errors_is_cut(client: httpx2.Client) -> None:
    answer = client.post("/v1/jobs", json={f"{CANARY}x {n}": n for n in range(1_000)})
    assert problem(answer) == (422, "invalid-request")
    assert len(answer.json()["errors"]) == 8


NOT_JSON = {
    "nothing but a brace": b'{"prompt": "zanzibar"',
    "trailing junk": parameters() + b" zanzibar",
    "two values": parameters() + parameters(),
    "NaN": b'{"prompt": "zanzibar", "guidance_scale": NaN}',
    "Infinity": b'{"prompt": "zanzibar", "guidance_scale": -Infinity}',
    "1e400": b'{"prompt": "zanzibar", "guidance_scale": 1e400}',
    "a number of ten thousand digits": b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "a key twice": b'{"prompt": "a", "prompt": "zanzibar"}',
    "a key twice inside": b'{"prompt": "a", "metadata": {"x": "1", "x": "zanzibar"}}',
    "17 deep": b'{"prompt": ' + b"[" * 16 + b"]" * 16 + b"}",
    "65,000 deep": b"[" * 65_000,
    "byte order mark": b"\xef\xbb\xbf" + parameters(),
    "malformed UTF-8": b'{"prompt": "zanzibar \xff"}',
    "UTF-16": parameters().decode().encode("utf-16"),
    "a control character": b'{"prompt": "zanzibar\n"}',
    "an apostrophe": b"{'prompt': 'zanzibar'}",
    "white space": b"   ",
}


@pytest.mark.parametrize("case", list(NOT_JSON))
def test_malformed_json(client: httpx2.Client, case: str) -> None:
    answer = client.post("/v1/jobs", content=NOT_JSON[case], headers={"Content-Type": "application/json"})
    assert problem(answer) == (400, "malformed-json")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=zanzibar"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
def test_other_media_types(client: httpx2.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/jobs", content=parameters(), headers=headers)
    assert problem(answer) == (415, "unsupported-media-type")


def test_json_in_utf_8_may_say_so(client: httpx2.Client) -> None:
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    assert client.post("/v1/jobs", content=parameters(), headers=headers).status_code == 202


@pytest.mark.parametrize("size", [64 * 1024 + 1, 1_000_000, 8_000_000])
def test_too_large(client: httpx2.Client, size: int) -> None:
    headers = {"Content-Type": "application/json"}
    try:
        answer = client.post("/v1/jobs/cancel", content=b" " * size, headers=headers)
    except (httpx2.WriteError, httpx2.ReadError):
        assert size > 2**20, "bodies up to 1 MiB are read to their end, so that the answer arrives"
    else:
        assert problem(answer) == (413, "body-too-large")
    assert client.post("/v1/jobs", content=parameters(), headers=headers).status_code == 202


@pytest.mark.parametrize(
    "prompt",
    [
        "\u202eolleh <script>alert(1)</script>",
        "👩‍👩‍👧‍👦 {{7*7}} %s %n ${jndi:ldap://x}",
        'a\n{"level": "error", "event": "forged"}\r\n',
        "a" * 2_000,
        "'; DROP TABLE jobs; --",
    ],
)
def test_strange_prompts_are_stored_as_they_are(client: httpx2.Client, prompt: str) -> None:
    answer = client.post("/v1/jobs", json={"prompt": prompt})
    assert (answer.status_code, answer.json()["input"]["prompt"]) == (202, prompt)


@pytest.mark.parametrize(
    "job_id",
    [
        "..%2f..",
        "%00",
        "*",
        "job_*",
        "x" * 5_000,
        "job_0123",
        "JOB_000000000000000000000000",
        "job_000000000000000000000000",
    ],
)
@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/images/0")]
)
def test_ids_that_are_none_and_that_are_nobodys(client: httpx2.Client, job_id: str, method: str, below: str) -> None:
    answer = client.request(method, f"/v1/jobs/{job_id}{below}")
    if "%2f" in job_id:
        assert answer.status_code == 404
    else:
        assert problem(answer) == (404, "job-not-found")


def test_a_malformed_id_does_not_reach_redis(client: httpx2.Client, redis_client: redis.Redis) -> None:
    client.get("/v1/jobs/job_000000000000000000000000")
    before = redis_client.info("commandstats")["cmdstat_hgetall"]["calls"]  # type: ignore[index]
    client.get("/v1/jobs/job_*")
    assert redis_client.info("commandstats")["cmdstat_hgetall"]["calls"] == before  # type: ignore[index]


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=zanzibar",
        "cursor=",
        "cursor=" + "A" * 129,
        "cursor=%00",
        "cursor=MTIzLmpvYl8wMDAw",
        "cursor=é",
        "status=zanzibar",
    ],
)
def test_bad_questions_to_the_list(client: httpx2.Client, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert problem(answer) == (422, "invalid-request")
    assert answer.json()["errors"][0]["parameter"] == query.split("=")[0]


@pytest.mark.parametrize("wait", ["1e9", "-1", "61", "x", "9" * 5_000])
def test_bad_waits(client: httpx2.Client, wait: str) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": wait})
    assert problem(answer) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("TRACE", "/v1/jobs", "GET, HEAD, POST"),
        ("ZANZIBAR", "/v1/jobs/job_000000000000000000000000", "DELETE, GET, HEAD"),
        ("GET", "/v1/jobs/job_000000000000000000000000/cancel", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/static/page.css", "GET, HEAD"),
    ],
)
def test_methods(client: httpx2.Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == (400 if method == "ZANZIBAR" else 405)
    if answer.status_code == 405:
        assert problem(answer) == (405, "method-not-allowed")
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/v1/jobs/", "/v1", "/v1/zanzibar", "//v1/jobs", "/static/zanzibar", "/static/..%2fmain.py", "/docs"]
)
def test_paths_that_are_not_there(client: httpx2.Client, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert problem(answer) == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/images/generations", "with /v1 before it"),
        ("/models/darkroom/starter", "with /v1 before it"),
        ("/v1/v1/images/generations", "with one /v1 less"),
        ("/v1/v1/v1/models", "with one /v1 less"),
        ("/zanzibar", "at this path."),
        ("/v1/v1", "at this path."),
        ("/v1/pictures/x", "at this path."),
    ],
)
def test_a_base_url_with_and_without_its_version(client: httpx2.Client, path: str, said: str) -> None:
    """The client for JavaScript of Replicate wants /v1 in it, the one for Python none; those of OpenAI want it."""
    answer = client.post(path, json={})
    assert problem(answer) == (404, "not-found")
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/images/edits", "/v1/v1/images/edits"])
def test_nor_is_a_picture_too_large_for_a_base_url(client: httpx2.Client, path: str) -> None:
    answer = client.post(path, data={"prompt": "a"}, files={"image": ("a.png", bytes(100_000), "image/png")})
    assert problem(answer) == (404, "not-found")
    assert "the base URL" in answer.json()["detail"]


def test_openais_clients_are_told_in_their_words_wherever_they_ask(client: httpx2.Client) -> None:
    """As openai 6.49 for JavaScript and 3.57 for Python ask: what they show of a refusal is `error`, or its status."""
    asked = {"X-Stainless-Lang": "js", "X-Stainless-Package-Version": "6.49.0", "Authorization": "Bearer any"}
    unknown = client.get("/v1/models/zanzibar", headers=asked)
    assert problem(unknown) == (404, "model-not-found")
    said = unknown.json()["error"]
    assert said["message"] == unknown.json()["detail"]
    assert (said["type"], said["param"], said["code"]) == ("invalid_request_error", None, "model-not-found")
    for method, path in (("POST", "/images/generations"), ("POST", "/v1/responses"), ("DELETE", "/v1/models/starter")):
        refused = client.request(method, path, headers=asked, json={})
        assert refused.json()["error"]["message"] == refused.json()["detail"], path
    wrong = client.post("/v1/jobs", headers=asked, json={"prompt": "a", "width": "x"})
    assert wrong.json()["error"]["message"].startswith("width ")
    assert "error" not in client.get("/v1/models/zanzibar").json()


def test_headers_of_a_webhook_are_never_read_back(client: httpx2.Client) -> None:
    """They are often secrets: neither the job, nor its deliveries, nor a refusal, nor a log line holds a value."""
    hook = {"url": "https://example.org/hook", "headers": {"Authorization": CANARY, "X-Team": CANARY}}
    with structlog.testing.capture_logs() as logs:
        sent = client.post("/v1/jobs", json={"prompt": "a frog", "webhook": hook})
        assert sent.status_code == 202
        job = sent.json()["id"]
        answers = [sent, *(client.get(f"/v1/jobs/{job}{below}") for below in ("", "/webhooks"))]
        answers += [client.get("/v1/jobs"), client.get(f"/v1/predictions/{job}")]
        for bad in ({"Host": CANARY}, {"X-A": CANARY + "\n"}, {CANARY + " ": "a"}):
            refused = client.post("/v1/jobs", json={"prompt": "a frog", "webhook": hook | {"headers": bad}})
            assert problem(refused) == (422, "invalid-request")
            assert refused.json()["errors"][0]["pointer"] == "/webhook/headers"
            answers.append(refused)
    assert CANARY not in "".join(answer.text for answer in answers)
    assert CANARY not in str(logs)
