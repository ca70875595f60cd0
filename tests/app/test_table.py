"""Every kind of refused input in one table, as bytes on a connection to a gateway process.

Each row: the right status and slug, in time, at most 2 kB, nothing of what was sent. All rows together: the process
lives, has not grown, and its log at DEBUG holds no traceback and nothing of what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from app.contract.messages.card import ModelCard
from app.contract.redis.ownership import Ownership
from tests.app.gateway_process import Process, gateway_process
from tests.app.test_refusals import CANARY, INVALID, NOT_JSON, parameters

GROWTH = 5_000_000
JOB = b"/v1/jobs/job_000000000000000000000000"
JSON = b"Content-Type: application/json"
HOST = b"Host: localhost"


@dataclass(frozen=True)
class Row:
    """Bytes, and what they are answered with. No slug: refused below HTTP, in plain text or by closing."""

    sent: bytes
    status: int = 400
    slug: str = ""
    endless: bytes = b""


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", HOST, b"Connection: close", *headers]) + b"\r\n\r\n"


def post(body: bytes, *headers: bytes, kind: bytes = JSON, path: bytes = b"/v1/jobs") -> bytes:
    return get(path, kind, b"Content-Length: %d" % len(body), *headers, method=b"POST") + body


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n"


PARAMETERS = parameters()
CODED = get(b"/v1/jobs", JSON, b"Transfer-Encoding: gzip, chunked", method=b"POST") + b"0\r\n\r\n"
SMUGGLED = b"GET /v1/zanzibar HTTP/1.1\r\nHost: localhost\r\n\r\n"

ROWS: dict[str, Row] = {
    **{f"request: {name}": Row(post(body), 422, "invalid-request") for name, (body, _) in INVALID.items()},
    **{f"json: {name}": Row(post(body), 400, "malformed-json") for name, body in NOT_JSON.items()},
    "json: nothing": Row(post(b""), 422, "invalid-request"),
    **{
        f"type: {kind.decode() or 'none'}": Row(
            post(PARAMETERS, kind=b"Content-Type: " + kind), 415, "unsupported-media-type"
        )
        for kind in (
            b"text/plain",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=zanzibar",
            b"application/json; charset=utf-16",
            b"application/json; charset=zanzibar",
            b"application/zanzibar+json",
        )
    },
    "type: a coded transfer": Row(CODED, 415, "unsupported-media-type"),
    "type: compressed": Row(post(PARAMETERS, b"Content-Encoding: gzip"), 415, "unsupported-media-type"),
    "body: a byte over 64 KiB": Row(post(b" " * 65_537, path=b"/v1/jobs/cancel"), 413, "body-too-large"),
    "body: more than 64 KiB that is no picture": Row(
        post(b'{"prompt": "' + b"zanzibar" * 9_000 + b'", "image": {"b64": "' + b"A" * 9_000 + b'"}}'),
        413,
        "body-too-large",
    ),
    "body: 32 MiB and a byte announced": Row(
        get(b"/v1/jobs", JSON, b"Content-Length: 33554433", b"Expect: 100-continue", method=b"POST"),
        413,
        "body-too-large",
    ),
    "body: 10 GB announced": Row(
        get(b"/v1/jobs", JSON, b"Content-Length: 10000000000", method=b"POST"), 413, "body-too-large"
    ),
    "body: a length of 5,000 digits": Row(get(b"/v1/jobs", JSON, b"Content-Length: " + b"9" * 5_000, method=b"POST")),
    "body: chunked without end": Row(
        get(b"/v1/jobs/cancel", JSON, b"Transfer-Encoding: chunked", method=b"POST"),
        413,
        "body-too-large",
        endless=b"4000\r\n" + b" " * 0x4000 + b"\r\n",
    ),
    "body: deep in chunks": Row(
        get(b"/v1/jobs", JSON, b"Transfer-Encoding: chunked", method=b"POST")
        + b"64\r\n"
        + b"[" * 100
        + b"\r\n0\r\n\r\n",
        400,
        "malformed-json",
    ),
    **{
        f"key: {key[:12]!r}": Row(post(PARAMETERS, b"Idempotency-Key: " + key), 400, "invalid-header")
        for key in (b"", b"x" * 256, b"a\tb")
    },
    "key: twice": Row(post(PARAMETERS, b"Idempotency-Key: a", b"Idempotency-Key: b"), 400, "invalid-header"),
    "key: a control character": Row(post(PARAMETERS, b"Idempotency-Key: \x01"), 400),
    **{
        f"id: {method.decode()} {name.decode()[:20]}{below.decode()}": Row(
            get(b"/v1/jobs/" + name + below, method=method), 404, "job-not-found"
        )
        for name in (b"..%00", b"*", b"%2e%2e", b"x" * 5_000, b"job_0", JOB.rpartition(b"/")[2], b"%ff%fe")
        for method, below in (
            (b"GET", b""),
            (b"DELETE", b""),
            (b"POST", b"/cancel"),
            (b"POST", b"/retry"),
            (b"GET", b"/events"),
            (b"GET", b"/images/0"),
            (b"GET", b"/webhooks"),
        )
    },
    "id: traversal": Row(get(b"/v1/jobs/..%2f..%2fetc"), 404, "not-found"),
    "picture: unsigned": Row(get(b"/pictures/zanzibar"), 403, "link-invalid"),
    "picture: traversal": Row(
        get(b"/pictures/..%2f..%2fetc%2fpasswd?expires=1&signature=zanzibar"), 403, "link-invalid"
    ),
    **{
        f"list: {query.decode()[:30]}": Row(get(b"/v1/jobs?" + query), 422, "invalid-request")
        for query in (
            b"limit=-1",
            b"limit=zanzibar",
            b"limit=1e9",
            b"cursor=zanzibar",
            b"cursor=%00",
            b"status=zanzibar",
        )
    },
    "path: trailing slash": Row(get(b"/v1/jobs/"), 404, "not-found"),
    "path: unknown": Row(get(b"/v1/zanzibar"), 404, "not-found"),
    "path: two slashes": Row(get(b"//v1/jobs"), 404, "not-found"),
    "path: of another server": Row(get(b"http://evil.example/v1/zanzibar"), 404, "not-found"),
    "path: script on the page": Row(get(b"/static/%3Cscript%3Ezanzibar"), 404, "not-found"),
    "method: TRACE": Row(get(b"/v1/jobs", method=b"TRACE"), 405, "method-not-allowed"),
    "method: PUT": Row(get(b"/v1/jobs", method=b"PUT"), 405, "method-not-allowed"),
    "method: unknown": Row(get(b"/v1/jobs", method=b"ZANZIBAR")),
    "head: no host": Row(head(b"GET /v1/jobs HTTP/1.1"), 400, "invalid-header"),
    "head: two hosts": Row(head(b"GET /v1/jobs HTTP/1.1", HOST, HOST), 400, "invalid-header"),
    "head: two callers": Row(
        head(b"GET /v1/jobs HTTP/1.1", HOST, *[b"Authorization: Bearer a"] * 2), 400, "invalid-header"
    ),
    "head: a host with a path": Row(head(b"GET /v1/jobs HTTP/1.1", b"Host: a/zanzibar"), 400, "invalid-header"),
    "head: another's name": Row(head(b"GET /v1/jobs HTTP/1.1", b"Host: zanzibar.example"), 421, "wrong-host"),
    "head: 40 kB in one header": Row(get(b"/v1/jobs", b"X-Filler: " + b"x" * 40_000), 431, "head-too-large"),
    "head: 120 headers": Row(get(b"/v1/jobs", *[b"X-%d: x" % n for n in range(120)]), 431, "head-too-large"),
    "head: 40 kB of path": Row(get(b"/v1/jobs?" + b"x" * 40_000), 431, "head-too-large"),
    "head: HTTP/0.9": Row(b"GET /v1/zanzibar\r\n\r\n"),
    "head: a space before the colon": Row(head(b"GET /v1/jobs HTTP/1.1", b"Host : localhost")),
    "head: a line without a colon": Row(head(b"GET /v1/jobs HTTP/1.1", HOST, b"zanzibar")),
    "head: NUL in a value": Row(head(b"GET /v1/jobs HTTP/1.1", HOST, b"X-Filler: zanzi\x00bar")),
    "head: no HTTP at all": Row(b"\x16\x03\x01\x02\x00zanzibar\r\n\r\n"),
    "smuggling: length and chunks": Row(
        post(SMUGGLED, b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    ),
    "smuggling: two lengths": Row(
        head(b"POST /v1/jobs HTTP/1.1", HOST, JSON, b"Content-Length: 2", b"Content-Length: 60") + b"{}" + SMUGGLED
    ),
    "smuggling: a length with a sign": Row(
        head(b"POST /v1/jobs HTTP/1.1", HOST, JSON, b"Content-Length: +2") + b"{}" + SMUGGLED
    ),
    "smuggling: a chunk of size zanzibar": Row(
        get(b"/v1/jobs", JSON, b"Transfer-Encoding: chunked", method=b"POST") + b"zanzibar\r\n" + SMUGGLED
    ),
    "openai: n of 10^9": Row(
        post(b'{"prompt": "zanzibar", "n": 1000000000}', path=b"/v1/images/generations"), 400, "openai"
    ),
    "openai: a size of letters": Row(
        post(b'{"prompt": "a", "size": "zanzibar"}', path=b"/v1/images/generations"), 400, "openai"
    ),
    "replicate: an unknown model": Row(
        post(b'{"version": "zanzibar", "input": {"prompt": "a"}}', path=b"/v1/predictions"), 422, "invalid-request"
    ),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway_process(tmp_path_factory.mktemp("table")) as process:
        yield process


@pytest.fixture
def served(gateway: Process, card: ModelCard) -> Process:
    Ownership(gateway.redis).announce(card, "w1")
    return gateway


@pytest.mark.parametrize("name", list(ROWS))
def test_each_row(served: Process, name: str) -> None:
    row = ROWS[name]
    answer = served.ask(row.sent, endless=row.endless)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert len(body) <= 2_048
    assert CANARY.encode() not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1, "what was smuggled is not answered"
    if row.endless and not answer:
        return
    if not row.slug:
        assert answer == b"" or top.startswith(b"HTTP/1.1 %d " % row.status), answer
        return
    assert top.startswith(b"HTTP/1.1 %d " % row.status), answer
    if row.slug == "openai":
        assert {"message", "type", "param", "code"} == set(json.loads(body)["error"])
        return
    assert b"content-type: application/problem+json" in top.lower()
    assert json.loads(body)["type"] == f"/problems/{row.slug}"


def test_all_rows_leave_nothing_behind(served: Process) -> None:
    for row in ROWS.values():
        served.ask(row.sent, endless=row.endless)
    before = served.rss()
    for _ in range(3):
        for row in ROWS.values():
            served.ask(row.sent, endless=row.endless)
    assert served.process.poll() is None
    assert served.rss() - before <= GROWTH
    assert served.redis.keys("darkroom:job:*") == []
    log = served.log.read_text()
    assert "Traceback" not in log
    assert CANARY not in log
