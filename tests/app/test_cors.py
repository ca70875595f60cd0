"""Pages of other origins: those that the operator names may call, and read refusals; all others are as before."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from pydantic import ValidationError

from app.edge.cors import EXPOSED
from app.routes.long_waits import FINAL_HEADERS
from app.settings import Settings
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS
from tests.pictures import file_of, noise

PAGE, OTHER, KEY = "https://app.example", "https://evil.example", "k" * 32
BEARER = {"Authorization": f"Bearer {KEY}"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,prefer"}


@pytest.fixture
def opened(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[httpx2.Client]:
    """A gateway with a key, and pages at two origins that may use it."""
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY}", cors_origins=f"{PAGE},http://localhost:5173") as running:
        yield running.client


@pytest.mark.parametrize("page", [PAGE, "http://localhost:5173"])
def test_a_preflight_needs_no_key(opened: httpx2.Client, page: str) -> None:
    answer = opened.options("/v1/jobs", headers=PREFLIGHT | {"Origin": page})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == page
    assert answer.headers["access-control-allow-headers"] == "authorization,prefer"
    assert {"GET", "HEAD", "POST", "DELETE"} == set(answer.headers["access-control-allow-methods"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("page", [OTHER, "null", "https://app.example.evil.example", "http://app.example", ""])
def test_a_page_elsewhere_hears_nothing(opened: httpx2.Client, page: str) -> None:
    assert opened.options("/v1/jobs", headers=PREFLIGHT | {"Origin": page}).status_code == 401
    answer = opened.get("/v1/jobs", headers=BEARER | {"Origin": page})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


def test_a_page_reads_answers_and_refusals(opened: httpx2.Client) -> None:
    asking = {"Origin": PAGE}
    sent = opened.post("/v1/jobs", json=PARAMETERS, headers=BEARER | asking)
    answers = [
        (202, sent),
        (200, opened.get(sent.json()["urls"]["self"], headers=BEARER | asking)),
        (401, opened.get("/v1/jobs", headers=asking)),
        (404, opened.get("/nope", headers=BEARER | asking)),
        (413, opened.post("/v1/jobs/cancel", json=["x" * 70_000], headers=BEARER | asking)),
        (415, opened.post("/v1/jobs", content=b"a=1", headers=BEARER | asking)),
        (422, opened.post("/v1/jobs", json={}, headers=BEARER | asking)),
        (400, opened.post("/v1/images/generations", json={}, headers=BEARER | asking)),
        (200, opened.get("/healthz", headers=asking)),
    ]
    for status, answer in answers:
        assert answer.status_code == status, answer.text
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-expose-headers"] == EXPOSED
        assert answer.headers["vary"] == "Origin"
    for name in ("Location", "Retry-After", "X-Request-Id", "ETag", "RateLimit", "Idempotency-Replayed"):
        assert name in EXPOSED.split(", ")
    # OpenAI's client would draw a job again that was called off, if it could not read that it should not.
    assert {*FINAL_HEADERS} <= {name.lower() for name in EXPOSED.split(", ")}


def test_a_picture_shown_without_an_origin_can_be_fetched_with_one(
    opened: httpx2.Client, worker: ScriptedWorker
) -> None:
    """A browser keeps what an <img> has loaded. Without Vary it hands that, which allows nobody, to fetch()."""
    job = opened.post("/v1/jobs", json=PARAMETERS, headers=BEARER).json()
    worker.succeed(worker.claim())
    link = opened.get(job["urls"]["self"], headers=BEARER).json()["images"][0]["url"]
    assert opened.get(link).headers["vary"] == "Origin"
    assert opened.get(link, headers={"Origin": PAGE}).headers["access-control-allow-origin"] == PAGE
    assert opened.get(job["urls"]["self"] + "/images/0", headers=BEARER).headers["vary"] == "Origin"


def test_off_by_default(client: httpx2.Client) -> None:
    answer = client.options("/v1/jobs", headers=PREFLIGHT | {"Origin": PAGE})
    assert answer.status_code == 405
    for each in (answer, client.get("/v1/jobs", headers={"Origin": PAGE})):
        assert not [name for name in each.headers if name.startswith("access-control") or name == "vary"]


FOREIGN = (
    {"Sec-Fetch-Site": "cross-site", "Origin": OTHER},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9999"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Origin": OTHER},
    {"Origin": "null"},
)
WELCOME = (
    {},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "cross-site", "Origin": PAGE},
    {"Origin": "https://darkroom.example"},
)


def test_a_page_elsewhere_changes_nothing_where_nobody_needs_a_key(gateway_with: OneGateway) -> None:
    """Its browser sends a form, or nothing at all, without asking us first."""
    with gateway_with(cors_origins=PAGE, public_url="https://darkroom.example/sub") as running:
        client, host = running.client, running.client.base_url.netloc.decode()
        form = {"files": {"file": ("a.png", file_of(noise()), "image/png")}}
        for headers in FOREIGN:
            for answer in (
                client.post("/v1/inputs", headers=headers, **form),
                client.delete("/v1/jobs/x", headers=headers),
            ):
                assert (answer.status_code, answer.json()["type"]) == (403, "/sub/problems/other-page"), headers
            assert client.get("/v1/models", headers=headers).status_code == 200
        for headers in (*WELCOME, {"Origin": f"http://{host}"}):
            assert client.post("/v1/inputs", headers=headers, **form).status_code in (200, 201), headers


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        "app.example",
        "https://app.example/",
        "https://app.example/page",
        "https://*.example",
        "https://App.example",
        "https://app.example:443",
        "http://app.example:80",
        "https://app.example:99999",
        "https://user@app.example",
        "ftp://app.example",
        "https://äpp.example",
        "https://app.example,*",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(origins: str) -> None:
    with pytest.raises(ValidationError, match="as browsers send it"):
        Settings(cors_origins=origins)  # type: ignore[arg-type]


def test_none_is_none() -> None:
    for nothing in ("", " ", ","):
        assert Settings(cors_origins=nothing).cors_origins == ()  # type: ignore[arg-type]
