"""What real clients, probes and proxies send: HEAD, HTTP/1.0, Token, charset=utf8, paths below a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2
import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, connect, locked, raw, read_all, slug  # noqa: F401
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import problem

VOLATILE = ("date", "x-request-id", "last-modified")


def every_get(running: Running, job_id: str) -> list[str]:
    """Every path of the API that takes a GET, for a job with a picture."""
    paths = running.client.get("/openapi.json").json()["paths"]
    values = {"job_id": job_id, "prediction_id": job_id, "index": "0", "owner": "darkroom", "name": "starter"}
    values |= {"model_id": "starter", "input_id": "in_" + "0" * 24, "file_id": "in_" + "0" * 24}
    values |= {"version": "0" * 64, "key": "images/x", "kind": "webp", "sha256": "0" * 64, "worker": "w1"}
    found = [path for path, operations in paths.items() if "get" in operations]
    return [re.sub(r"{(\w+)(:path)?}", lambda name: values[name[1]], path) for path in found]


def test_head_is_answered_wherever_get_is(running: Running, client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    worker.succeed(worker.claim())
    link = client.get(job["urls"]["self"]).json()["images"][0]["url"].removeprefix(running.url)
    others = ["/", "/problems/", "/problems/queue-full", "/static/page.js", "/openapi.json", "/nope", link]
    asked = every_get(running, job["id"]) + others
    assert len(asked) > 20
    for path in asked:
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        unlike = {name for name in whole.headers if head.headers.get(name) != whole.headers[name]} - set(VOLATILE)
        # A stream and a metric have no length that could be known before.
        assert unlike <= {"transfer-encoding", "content-length"}, (path, unlike)
    assert client.head("/v1/jobs/x/cancel").status_code == 405


def test_head_opens_no_stream_and_does_not_wait(running: Running, client: httpx2.Client) -> None:
    """The job never ends, so that whatever waited for it would not be answered."""
    job = client.post("/v1/jobs", json=PARAMETERS).json()["id"]
    for path in (f"/v1/jobs/{job}/events", f"/v1/predictions/{job}/stream"):
        head = client.head(path)
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert head.headers["x-accel-buffering"] == "no"
        assert running.app.state.services.feed.listeners == 0
    with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert stream.headers["content-type"] == client.head(f"/v1/jobs/{job}/events").headers["content-type"]
        waiting = client.head(f"/v1/jobs/{job}", params={"wait": 60})
        assert waiting.status_code == 200
        assert waiting.headers["retry-after"]
        assert running.app.state.services.feed.listeners == 1, "the stream's own"


def test_allow_names_head(client: httpx2.Client) -> None:
    assert client.put("/v1/jobs").headers["allow"] == "GET, HEAD, POST"
    assert client.put("/healthz").headers["allow"] == "GET, HEAD"
    assert client.put("/v1/jobs/x/cancel").headers["allow"] == "POST"


def test_metrics_count_a_head_under_its_route(client: httpx2.Client) -> None:
    client.head("/v1/models")
    assert 'method="HEAD",process="0",route="/v1/models",status="200"' in client.get("/metrics").text


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_probe_in_http_1_0_has_no_host(client: httpx2.Client, path: bytes, method: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(method + b" " + path + b" HTTP/1.0\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n") is (method == b"HEAD")


def test_nothing_else_goes_without_a_host(client: httpx2.Client) -> None:
    assert slug(raw(client, b"GET /healthz", host=b"")) == (400, "invalid-header"), "HTTP/1.1 demands one"
    for line in (b"GET /v1/jobs HTTP/1.0\r\n\r\n", b"GET /healthz HTTP/1.0\r\nHost: a b\r\n\r\n"):
        with connect(client) as connection:
            connection.sendall(line)
            assert slug(read_all(connection)) == (400, "invalid-header")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Token", "token", "TOKEN"])
def test_the_schemes_that_carry_a_key(locked: httpx2.Client, scheme: str) -> None:  # noqa: F811
    assert locked.get("/v1/jobs", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200
    assert problem(locked.get("/v1/jobs", headers={"Authorization": f"{scheme} {KEY}x"})) == (401, "unauthenticated")


@pytest.mark.parametrize("scheme", ["Basic", "Key", "Tokens", "BearerToken"])
def test_other_schemes_carry_none(locked: httpx2.Client, scheme: str) -> None:  # noqa: F811
    assert problem(locked.get("/v1/jobs", headers={"Authorization": f"{scheme} {KEY}"})) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf8",
        "application/json;charset=UTF8",
        'application/json; charset="utf-8"',
        "application/json; charset=us-ascii",
        "application/json;",
        "application/json; odata.metadata=minimal; charset=utf-8",
    ],
)
def test_utf_8_has_many_spellings(client: httpx2.Client, media_type: str) -> None:
    content = b'{"prompt": "a frog"}'
    headers = {"Content-Type": media_type, "Content-Encoding": "identity"}
    assert client.post("/v1/jobs", content=content, headers=headers).status_code == 202


@pytest.mark.parametrize("charset", ["utf-16", "latin1", "utf-8859", ""])
def test_other_charsets_are_not_read(client: httpx2.Client, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    answer = client.post("/v1/jobs", content=b'{"prompt": "a frog"}', headers=headers)
    assert problem(answer) == (415, "unsupported-media-type")


PUBLIC = "https://pictures.example/darkroom"


@pytest.fixture
def below(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[Running]:
    """A gateway that a proxy shows at https://pictures.example/darkroom."""
    worker.announce()
    with gateway_with(public_url=PUBLIC + "/", docs=True) as running:
        yield running


@pytest.mark.parametrize("prefix", ["", "/darkroom"])
def test_behind_a_prefix_that_the_proxy_takes_off_or_leaves(
    below: Running, worker: ScriptedWorker, prefix: str
) -> None:
    """Everything that leads somewhere leads to where the client can go."""
    client = below.client
    sent = client.post(f"{prefix}/v1/jobs", json=PARAMETERS)
    job = sent.json()
    assert sent.headers["location"] == f"/darkroom/v1/jobs/{job['id']}"
    assert job["urls"]["self"] == f"{PUBLIC}/v1/jobs/{job['id']}"
    worker.fail(worker.claim())
    failed = client.get(f"{prefix}/v1/jobs/{job['id']}").json()
    assert failed["error"]["type"] == "/darkroom/problems/numerical-error"
    retried = client.post(f"{prefix}/v1/jobs/{job['id']}/retry")
    assert retried.headers["location"] == f"/darkroom/v1/jobs/{retried.json()['id']}"
    worker.succeed(worker.claim())
    done = client.get(f"{prefix}/v1/jobs/{retried.json()['id']}").json()
    link = done["images"][0]["url"]
    assert link.startswith(f"{PUBLIC}/pictures/")
    assert client.get(prefix + link.removeprefix(PUBLIC)).content == b"not really a PNG"
    predicted = client.post(f"{prefix}/v1/predictions", json={"version": "darkroom/starter", "input": PARAMETERS})
    assert predicted.headers["location"] == f"/darkroom/v1/predictions/{predicted.json()['id']}"
    assert predicted.json()["urls"]["get"] == f"{PUBLIC}/v1/predictions/{predicted.json()['id']}"
    for refused in (client.get(f"{prefix}/nope"), client.post(f"{prefix}/v1/jobs", content=b"x")):
        assert refused.json()["type"].startswith("/darkroom/problems/")
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": PUBLIC}]


@pytest.mark.parametrize("page", ["/", "/problems/", "/problems/queue-full", "/docs"])
def test_pages_lead_below_the_prefix(below: Running, page: str) -> None:
    html = below.client.get(page).text
    leads = re.findall(r"""(?:href|src)="(/[^"]*)"|url: '(/[^']*)'""", html)
    assert leads
    for lead in leads:
        path = lead[0] or lead[1]
        assert path.startswith("/darkroom/"), path
        assert below.client.get(path.removeprefix("/darkroom")).status_code == 200, path


def test_only_the_whole_prefix_is_one(below: Running) -> None:
    assert below.client.get("/darkroom").headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/darkroomy/healthz", "/dark/healthz", "/darkroom/darkroom/healthz"):
        assert below.client.get(path).status_code == 404, path


@pytest.mark.parametrize(
    "url", ["https://h/v1", "https://h/v1/", "https://h/pictures/x", "https://h/a b", "https://h//x"]
)
def test_a_prefix_that_cannot_be(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(public_url=url)


@pytest.mark.parametrize(("url", "prefix"), [("https://h", ""), ("https://h/", ""), ("https://h/a/b-c/", "/a/b-c")])
def test_a_prefix_that_can(url: str, prefix: str) -> None:
    assert Settings(public_url=url).prefix == prefix
