"""The service below a path of a real nginx, over TLS and HTTP/2: with the configuration that deploy/nginx offers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest
import redis

from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.app.streams_behind_proxies import require_events_while_a_job_runs
from tests.app.test_jobs import PARAMETERS
from tests.conftest import IN_CI
from tests.nginx_server import PREFIX, Nginx, nginx_before
from tests.pictures import file_of, noise
from tests.system.conftest import COMMAND
from tests.waiting import WAIT_SECONDS, until

KEY = "k" * 32
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def running(redis_client: redis.Redis, valkey_url: str, tmp_path: Path, port: int) -> Iterator[Running]:
    public = f"https://localhost:{port}{PREFIX}"
    yield from serve(settings_for(valkey_url, tmp_path, public_url=public, api_keys=f"ann:{KEY}"))


@pytest.fixture
def worker(redis_client: redis.Redis, card: object, running: Running) -> ScriptedWorker:
    worker = ScriptedWorker(redis_client, card, running.app.state.settings)  # type: ignore[arg-type]
    worker.announce()
    return worker


@pytest.fixture
def nginx(running: Running, worker: ScriptedWorker, tmp_path: Path, port: int) -> Iterator[Nginx]:
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx_before(folder, port=port, gateway=running.port) as nginx:
        yield nginx


@pytest.fixture
def outside(nginx: Nginx) -> Iterator[httpx2.Client]:
    """A client that knows the public address only, and trusts the proxy's certificate only."""
    trusts = ssl.create_default_context(cafile=str(nginx.ca))
    with httpx2.Client(verify=trusts, timeout=WAIT_SECONDS, trust_env=False, headers=BEARER) as client:
        yield client


def test_every_lead_can_be_followed_from_outside(nginx: Nginx, outside: httpx2.Client, worker: ScriptedWorker) -> None:
    sent = outside.post(f"{nginx.url}/v1/jobs", json=PARAMETERS)
    assert sent.status_code == 202
    located = urljoin(str(sent.url), sent.headers["location"])
    assert located == sent.json()["urls"]["self"] == f"{nginx.url}/v1/jobs/{sent.json()['id']}"
    worker.succeed(worker.claim())
    done = outside.get(located).json()
    link = done["images"][0]["url"]
    assert link.startswith(f"{nginx.url}/pictures/")
    assert outside.get(link, headers={"Authorization": ""}).content == b"not really a PNG"
    assert outside.head(link).headers["content-length"] == "16"
    assert outside.get(link, headers={"Range": "bytes=4-9"}).content == b"really"
    refused = outside.post(f"{nginx.url}/v1/jobs", json={})
    page = outside.get(urljoin(str(refused.url), refused.json()["type"]))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    [server] = outside.get(f"{nginx.url}/openapi.json").json()["servers"]
    assert outside.get(server["url"] + "/healthz").text == "ok\n"
    bare = outside.get(nginx.url)
    assert bare.status_code == 308
    assert outside.get(urljoin(nginx.url, bare.headers["location"])).headers["content-type"].startswith("text/html")


def test_events_come_while_the_job_runs(nginx: Nginx, outside: httpx2.Client, worker: ScriptedWorker) -> None:
    require_events_while_a_job_runs(outside, nginx.url, worker)


def test_an_upload_of_sixty_kilobytes(nginx: Nginx, outside: httpx2.Client) -> None:
    """More than nginx keeps in memory of a body, so that it goes through a file of its own."""
    whole = PARAMETERS | {"metadata": {f"note {number}": "\N{FROG FACE}" * 310 for number in range(16)}}
    body = json.dumps(whole).encode()
    assert 59_000 < len(body) < 61_000
    sent = outside.post(f"{nginx.url}/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (sent.status_code, sent.json()["metadata"]) == (202, whole["metadata"])
    too_much = outside.post(f"{nginx.url}/v1/jobs", json=PARAMETERS | {"prompt": "a" * 200_000})
    assert too_much.json()["type"] == f"{PREFIX}/problems/body-too-large", "the gateway's own, not the proxy's page"


def test_a_picture_of_megabytes(nginx: Nginx, outside: httpx2.Client) -> None:
    file = file_of(noise(1200, 1200))
    assert len(file) > 2 * 2**20
    sent = outside.post(f"{nginx.url}/v1/inputs", content=file, headers={"Content-Type": "image/png"})
    assert (sent.status_code, sent.json()["width"]) == (201, 1200)
    assert sent.headers["location"] == f"{PREFIX}/v1/inputs/{sent.json()['id']}"


def test_a_refusal_of_a_large_upload_arrives(nginx: Nginx, outside: httpx2.Client) -> None:
    """The gateway answers by the head alone; see app/edge/transport.py for what becomes of the rest."""
    headers = {"Authorization": "Bearer drk_unknown", "Content-Type": "image/png"}
    refused = outside.post(f"{nginx.url}/v1/inputs", content=bytes(16 * 2**20), headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (401, f"{PREFIX}/problems/unauthenticated")
    assert not list((nginx.folder / "body").iterdir()), "no stranger's megabytes on the proxy's disk"


def test_what_is_too_large_is_the_gateways_to_say(nginx: Nginx, outside: httpx2.Client) -> None:
    """An edit of two pictures may have more than forty megabytes, and the settings may allow more."""
    lines = f"POST {PREFIX}/v1/inputs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    lines += "Content-Type: image/png\r\nConnection: close\r\n"
    for more, status, slug in (
        (f"Content-Length: {50 * 2**20}\r\n", 413, "body-too-large"),
        (f"X-One: {'x' * 20_000}\r\nX-Two: {'x' * 20_000}\r\n", 431, "head-too-large"),
    ):
        answer = raw(nginx, f"{lines}{more}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert f"{PREFIX}/problems/{slug}".encode() in answer


def test_nothing_is_served_from_nginx_own_folder(nginx: Nginx) -> None:
    """Another path, another name behind a certificate that was shown for ours, or a program that sends no name."""
    for path, host in (("/pictures", "localhost"), (f"{PREFIX}/pictures", "other.example.org"), (PREFIX, None)):
        folder = nginx.folder / f"html{path}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x").write_text("a file of another service")
        named, version = (f"Host: {host}\r\n", "1.1") if host else ("", "1.0")
        asked = f"GET {path}/x?signature=opens HTTP/{version}\r\n{named}Connection: close\r\n\r\n"
        assert b"a file" not in raw(nginx, asked.encode())
    assert b"opens" not in b"".join(log.read_bytes() for log in nginx.folder.glob("*.log"))


def test_a_request_behind_another_is_none(nginx: Nginx, worker: ScriptedWorker) -> None:
    """Shapes by which two servers in a row read two requests where the other reads one."""
    hidden = f"POST /darkroom/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    body = json.dumps(PARAMETERS)
    hidden += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    for framing in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 5\r\nContent-Length: 9",
        "Content-Length: +5",
    ):
        head = f"POST /darkroom/v1/cancel HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n0\r\n\r\n"
        answer = raw(nginx, (head + hidden).encode())
        assert answer.count(b"HTTP/1.1 ") == 1, framing
        assert answer.split()[1] in (b"400", b"501"), framing


def raw(nginx: Nginx, request: bytes) -> bytes:
    """What comes back for these bytes until the proxy ends the connection."""
    port = int(nginx.url.rpartition(":")[2].partition("/")[0])
    trusts = ssl.create_default_context(cafile=str(nginx.ca))
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) as line,
        trusts.wrap_socket(line, server_hostname="localhost") as tls,
    ):
        tls.sendall(request)
        return b"".join(iter(lambda: tls.recv(65_536), b""))


def curl(nginx: Nginx, *arguments: str) -> str:
    program = shutil.which("curl")
    if program is None:
        (pytest.fail if IN_CI else pytest.skip)("no curl here")
    asked = [program, "--silent", "--show-error", "--http2", "--cacert", str(nginx.ca), "--noproxy", "*", *arguments]
    return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=WAIT_SECONDS).stdout


def test_http_2(nginx: Nginx, worker: ScriptedWorker, outside: httpx2.Client) -> None:
    key = f"Authorization: Token {KEY}"
    status = "%{http_version} %{http_code}"
    assert curl(nginx, "-o", "/dev/null", "-w", status, f"{nginx.url}/healthz") == "2 200"
    assert curl(nginx, "-o", "/dev/null", "-w", status, f"{nginx.url}/v1/models", "-H", key) == "2 200"
    assert curl(nginx, "-o", "/dev/null", "-w", status, "-I", f"{nginx.url}/v1/models") == "2 401"
    job = outside.post(f"{nginx.url}/v1/jobs", json=PARAMETERS).json()
    worker.succeed(worker.claim())
    told = curl(nginx, "-N", "-H", key, job["urls"]["events"])
    assert '"status": "succeeded"' in told


def test_another_name_is_shown_no_certificate(nginx: Nginx) -> None:
    port = int(nginx.url.rpartition(":")[2].partition("/")[0])
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as line, pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        anything.wrap_socket(line, server_hostname="other.example.org")
    with socket.create_connection(("127.0.0.1", port)) as line:
        anything.wrap_socket(line, server_hostname="localhost").close()


def test_the_log_of_the_proxy_holds_no_query(nginx: Nginx, outside: httpx2.Client, worker: ScriptedWorker) -> None:
    job = outside.post(f"{nginx.url}/v1/jobs", json=PARAMETERS).json()
    worker.succeed(worker.claim())
    outside.get(outside.get(job["urls"]["self"]).json()["images"][0]["url"])
    until(lambda: "/pictures/" in nginx.access_log)
    assert "signature" not in nginx.access_log
    assert "expires" not in nginx.access_log


def test_no_log_holds_a_query_when_the_gateway_is_away(tmp_path: Path, port: int) -> None:
    with nginx_before(tmp_path, port=port, gateway=free_port()) as nginx:
        trusts = ssl.create_default_context(cafile=str(nginx.ca))
        with httpx2.Client(verify=trusts, timeout=WAIT_SECONDS, trust_env=False) as client:
            assert client.get(f"{nginx.url}/pictures/x?signature=opens").status_code == 502
        until(lambda: "/pictures/x" in nginx.access_log)
        assert "opens" not in nginx.access_log + nginx.error_log


def test_the_command_line_below_a_prefix(
    nginx: Nginx, outside: httpx2.Client, worker: ScriptedWorker, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environment |= {"DARKROOM_URL": nginx.url, "DARKROOM_API_KEY": KEY, "SSL_CERT_FILE": str(nginx.ca)}
    environment |= {"NO_PROXY": "localhost", "no_proxy": "localhost"}
    out = tmp_path / "out.png"
    command = [COMMAND, "generate", "a frog", "-o", str(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: process.poll() is not None or outside.get(f"{nginx.url}/v1/jobs").json()["data"])
        if process.poll() is None:
            worker.succeed(worker.claim(), data=b"a picture")
        told, complaints = process.communicate(timeout=WAIT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, complaints + told
    assert out.read_bytes() == b"a picture"
