"""What is refused before parsing: bytes that no client library sends, missing keys; and what every answer carries."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
import pytest
import redis
import structlog

from app.edge.http_protocol import LimitedProtocol
from app.settings import Settings
from tests.app.conftest import OneGateway, Running, ScriptedWorker, serve
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import CANARY, parameters, problem
from tests.waiting import WAIT_SECONDS, until


def raw(
    client: httpx2.Client, line: bytes, *headers: bytes, body: bytes = b"", host: bytes = b"Host: localhost"
) -> bytes:
    """The whole answer to bytes as they are."""
    head = [line + b" HTTP/1.1", *filter(None, [host]), *headers, b"Connection: close"]
    if body:
        head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    with connect(client) as connection:
        connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
        return read_all(connection)


def connect(client: httpx2.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=WAIT_SECONDS)


def send_for_ever(connection: socket.socket, chunk: bytes) -> None:
    for _ in range(100_000):
        connection.sendall(chunk)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def slug(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"server:" not in head.lower()
    found = json.loads(body)
    return int(head.split()[1]), found["type"].removeprefix("/problems/")


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\tb", b"\x7f"])
def test_bad_idempotency_keys(client: httpx2.Client, key: bytes) -> None:
    answer = raw(client, b"POST /v1/jobs", b"Idempotency-Key: " + key, body=parameters())
    assert answer.startswith(b"HTTP/1.1 400 ")
    doubled = raw(client, b"POST /v1/jobs", b"Idempotency-Key: a\r\nIdempotency-Key: b", body=parameters())
    assert b"/problems/invalid-header" in doubled


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"Host: localhost\r\nHost: localhost",
        b"Host: localhost/zanzibar",
        b"Host: a b",
        b"Host: user@localhost",
        b"Host: ",
        b"Host: localhost:999999",
    ],
)
def test_not_exactly_one_valid_host(client: httpx2.Client, host: bytes) -> None:
    assert slug(raw(client, b"GET /v1/jobs", host=host)) == (400, "invalid-header")


def test_another_host(client: httpx2.Client) -> None:
    rebound = raw(client, b"GET /v1/jobs", host=b"Host: evil.example")
    assert slug(rebound) == (421, "wrong-host")
    assert raw(client, b"GET /healthz", host=b"Host: 10.0.0.7:8000").startswith(b"HTTP/1.1 200 ")


def test_listed_hosts(gateway_with: OneGateway) -> None:
    with gateway_with(allowed_hosts=("pictures.example.org", "*.example.net")) as running:
        for host, status in (
            ("pictures.example.org", 200),
            ("PICTURES.example.org:443", 200),
            ("a.example.net", 200),
            ("example.net", 421),
            ("a.b.example.net", 421),
            ("localhost", 421),
        ):
            assert running.client.get("/v1/jobs", headers={"Host": host}).status_code == status, host


def test_a_head_that_is_too_large(client: httpx2.Client) -> None:
    assert slug(raw(client, b"GET /v1/jobs", b"X-Filler: " + b"x" * 40_000)) == (431, "head-too-large")
    assert slug(raw(client, b"GET /v1/jobs", *[b"X-%d: x" % n for n in range(120)])) == (431, "head-too-large")
    assert slug(raw(client, b"GET /v1/jobs?" + b"x" * 40_000)) == (431, "head-too-large")


def test_an_announced_ten_gigabytes(client: httpx2.Client) -> None:
    headers = (b"Content-Type: application/json", b"Content-Length: 10000000000")
    assert slug(raw(client, b"POST /v1/jobs", *headers)) == (413, "body-too-large")


def test_a_chunked_body_without_end(client: httpx2.Client) -> None:
    with connect(client) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for_ever(connection, chunk)


def test_trailers_of_a_chunked_body_are_no_headers(client: httpx2.Client, redis_client: redis.Redis) -> None:
    """They come after the head was judged. Two requests on one connection: the second one's head is read again."""
    body = parameters()
    request = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nTrailer: Idempotency-Key\r\n%s\r\n"
        b"%x\r\n%s\r\n0\r\nIdempotency-Key: smuggled\r\nIdempotency-Key: twice\r\nHost: evil.example\r\n\r\n"
    )
    with connect(client) as connection:
        connection.sendall(request % (b"", len(body), body))
        connection.sendall(request % (b"Connection: close\r\nIdempotency-Key: honest\r\n", len(body), body))
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 202 ") == 2
    assert len(redis_client.keys("darkroom:idempotency:*")) == 1, "the key of the second one's head, and no other"


def test_a_body_that_is_shorter_than_announced(client: httpx2.Client, redis_client: redis.Redis) -> None:
    with connect(client) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 500\r\n\r\n" + parameters()
        )
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
    assert redis_client.keys("darkroom:job:*") == []


def test_a_body_that_takes_too_long(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with(body_seconds=0.2) as running, connect(running.client) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 500\r\n\r\n{"
        )
        assert slug(read_all(connection)) == (408, "body-too-slow")


@pytest.fixture
def hurried(settings: Settings, worker: ScriptedWorker) -> Iterator[httpx2.Client]:
    """A gateway that waits a fifth of a second for a head."""
    worker.announce()
    hasty = type("Hasty", (LimitedProtocol,), {"head_seconds": 0.2})
    for running in serve(settings, http=hasty):
        yield running.client


@pytest.mark.parametrize("start", [b"", b"GET /v1/jobs HTTP/1.1\r\nHost: loc", b"\r\n"])
def test_half_a_head(hurried: httpx2.Client, start: bytes) -> None:
    with connect(hurried) as connection:
        connection.sendall(start)
        assert read_all(connection) == b""


def test_half_a_second_head_on_a_used_connection(hurried: httpx2.Client) -> None:
    def answers() -> bytes:
        with connect(hurried) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
            return read_all(connection)

    # Not at once where the first head came too late as well.
    assert until(answers).count(b"HTTP/1.1 200 ") == 1


def test_a_long_wait_is_no_slow_head(hurried: httpx2.Client, client: httpx2.Client) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS).json()

    def status() -> int | None:
        # None where the head itself came too late.
        with suppress(httpx2.TransportError):
            return hurried.get(f"/v1/jobs/{job['id']}", params={"wait": 1}).status_code
        return None

    assert until(status) == 200


def test_a_head_without_end(client: httpx2.Client) -> None:
    with connect(client) as connection:
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Filler: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for_ever(connection, b"x" * 16_384)


@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/v1/jobs/x", "/healthz", "/problems/", "/nope", "/static/page.js"])
def test_headers_of_every_answer(client: httpx2.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-request-id"].startswith("req_")
    assert "server" not in headers
    assert "set-cookie" not in headers
    assert "access-control-allow-origin" not in headers


def test_a_sane_request_id_is_kept(client: httpx2.Client) -> None:
    assert client.get("/nope", headers={"X-Request-Id": "trace-7.a"}).json()["instance"].endswith(":trace-7.a")
    for bad in ("a b", "x" * 65, "<script>", ""):
        assert client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"].startswith("req_")


def test_the_unforeseen_is_a_500_and_one_log_line(
    running: Running, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(running.app.state.services.jobs, "list_jobs", broken)
    with structlog.testing.capture_logs() as logs:
        assert problem(client.get("/v1/jobs")) == (500, "internal-error")
    assert [line["event"] for line in logs] == ["request failed"]


def test_no_log_line_holds_what_a_caller_said(client: httpx2.Client) -> None:
    headers = {"Authorization": f"Bearer {CANARY}", "Idempotency-Key": CANARY, "X-Request-Id": "r1"}
    with structlog.testing.capture_logs() as logs:
        assert client.post("/v1/jobs", json={"prompt": CANARY}, headers=headers).status_code == 202
        assert client.post("/v1/jobs", json={"prompt": 7, CANARY: 1}, headers=headers).status_code == 422
        client.get(f"/v1/jobs/{CANARY}")
    assert [line["event"] for line in logs] == ["job accepted"]
    assert CANARY not in str(logs)


KEY, OTHER_KEY = "k" * 32, "o" * 32


@pytest.fixture
def locked(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[httpx2.Client]:
    """A gateway with keys, and a client without one."""
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY},bob:{OTHER_KEY}") as running:
        yield running.client


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer zanzibar", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[1:]}"]
)
def test_without_a_good_key(locked: httpx2.Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", "/v1/jobs"), ("GET", "/v1/models"), ("POST", "/v1/jobs"), ("GET", "/nope")):
        answer = locked.request(method, path, headers=headers, content=b"not json" if method == "POST" else None)
        assert problem(answer) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="darkroom"'


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/static/page.js", "/problems/", "/problems/queue-full", "/openapi.json"]
)
def test_open_to_everybody(locked: httpx2.Client, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_tenants_see_only_their_own(locked: httpx2.Client) -> None:
    ann, bob = ({"Authorization": f"bearer {key}"} for key in (KEY, OTHER_KEY))
    job = locked.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/images/0")):
        answer = locked.request(method, f"/v1/jobs/{job['id']}{below}", headers=bob)
        assert problem(answer) == (404, "job-not-found")
    assert locked.get("/v1/jobs", headers=bob).json()["data"] == []
    same = [
        locked.post("/v1/jobs", json=PARAMETERS, headers=who | {"Idempotency-Key": "k"}).json()["id"]
        for who in (ann, bob)
    ]
    assert same[0] != same[1], "a key belongs to its tenant"
    locked.delete(f"/v1/jobs/{same[0]}", headers=ann)
    assert [each["id"] for each in locked.get("/v1/jobs", headers=ann).json()["data"]] == [job["id"]]


def test_many_slow_bodies_hold_up_nobody(client: httpx2.Client) -> None:
    slow = [connect(client) for _ in range(50)]
    for connection in slow:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.get("/healthz").status_code, range(20)))
    assert answers == [200] * 20
    for connection in slow:
        connection.close()
    until(lambda: threading.active_count() < 50)
