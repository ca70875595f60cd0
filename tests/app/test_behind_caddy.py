"""The service below a path of a real Caddy, over TLS: with the configuration that deploy/caddy offers."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest
import redis
import trustme

from app.contract.messages.card import ModelCard
from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, begin_anew, serve, settings_for
from tests.app.streams_behind_proxies import require_events_while_a_job_runs
from tests.app.test_jobs import PARAMETERS
from tests.pictures import file_of, noise
from tests.waiting import WAIT_SECONDS, until

SAMPLE = Path(__file__).parents[2] / "deploy" / "caddy" / "Caddyfile"
PROGRAM = Path(sys.executable).with_name("caddy")
KEY = "k" * 32
PREFIX = "/darkroom"


@dataclass(frozen=True)
class Caddy:
    """A proxy that listens. `url` is how clients reach the gateway through it."""

    url: str
    port: int
    client: httpx2.Client
    log: Path


@pytest.fixture(scope="module")
def running(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    url = f"https://localhost:{free_port()}{PREFIX}"
    yield from serve(settings_for(valkey_url, tmp_path_factory.mktemp("g"), public_url=url, api_keys=f"ann:{KEY}"))


@pytest.fixture
def worker(redis_client: redis.Redis, card: ModelCard, running: Running) -> ScriptedWorker:
    begin_anew(running)
    worker = ScriptedWorker(redis_client, card, running.app.state.settings)
    worker.announce()
    return worker


@pytest.fixture(scope="module")
def caddy(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    url = str(running.app.state.settings.public_url)
    with caddy_before(tmp_path_factory.mktemp("caddy"), url=url, gateway=running.port) as caddy:
        yield caddy


@contextmanager
def caddy_before(folder: Path, *, url: str, gateway: int) -> Iterator[Caddy]:
    """Caddy at the address, before the gateway's port. Ends with the block."""
    authority, port = trustme.CA(), int(url.rpartition(":")[2].partition("/")[0])
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    (folder / "Caddyfile").write_text(sample(folder, port, gateway))
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    with (folder / "log").open("wb") as log:
        command = [PROGRAM, "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    bearer = {"Authorization": f"Bearer {KEY}"}
    try:
        until(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (folder / "log").read_text()
        with httpx2.Client(verify=trusts, timeout=WAIT_SECONDS, trust_env=False, headers=bearer) as client:
            yield Caddy(url, port, client, folder / "log")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)


def sample(folder: Path, port: int, gateway: int) -> str:
    """The configuration as an operator would change it: name, address and, as this name is no public one, its
    certificate."""
    text = SAMPLE.read_text()
    changes = {
        "\n{\n": "\n{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n",
        "\npictures.example.org {": f"\nlocalhost:{port} {{\n\ttls {folder}/both.pem {folder}/both.pem",
        "reverse_proxy 127.0.0.1:8000 {": f"reverse_proxy 127.0.0.1:{gateway} {{",
    }
    for ours, theirs in changes.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_lead_can_be_followed_from_outside(caddy: Caddy, worker: ScriptedWorker) -> None:
    outside = caddy.client
    sent = outside.post(f"{caddy.url}/v1/jobs", json=PARAMETERS)
    assert sent.status_code == 202
    located = urljoin(str(sent.url), sent.headers["location"])
    assert located == sent.json()["urls"]["self"] == f"{caddy.url}/v1/jobs/{sent.json()['id']}"
    worker.succeed(worker.claim())
    link = outside.get(located).json()["images"][0]["url"]
    assert link.startswith(f"{caddy.url}/pictures/")
    assert outside.get(link, headers={"Authorization": ""}).content == b"not really a PNG"
    bare = outside.get(caddy.url)
    assert (bare.status_code, urljoin(caddy.url, bare.headers["location"])) == (308, f"{caddy.url}/")
    assert outside.get(f"{caddy.url}/").headers["content-type"].startswith("text/html")
    assert outside.get(urljoin(caddy.url, "/elsewhere")).status_code == 404
    until(lambda: "/pictures/" in caddy.log.read_text())
    said = [json.loads(line) for line in caddy.log.read_text().splitlines() if "/pictures/" in line]
    assert not [line for line in said if "signature" in str(line) or KEY in str(line)], (
        "what opens something for a reader"
    )


def test_no_log_holds_a_query_when_the_gateway_is_away_or_leads_to_the_store(tmp_path: Path) -> None:
    """Of its own errors as of its answers, whose Location may open a picture as well."""
    url = f"https://localhost:{free_port()}{PREFIX}"
    with gateway_that_redirects() as gateway, caddy_before(tmp_path, url=url, gateway=gateway.server_port) as caddy:
        led = caddy.client.get(f"{url}/pictures/led?signature=opens")
        assert (led.status_code, "opens" in led.headers["location"]) == (302, True)
        gateway.shutdown()
        gateway.server_close()
        assert caddy.client.get(f"{url}/pictures/away?signature=opens").status_code == 502
        # An access line of each, and the error that a gateway is away.
        lines = ('"status":302', '"status":502', '"http.log.error')
        until(lambda: all(line in caddy.log.read_text() for line in lines))
        assert "opens" not in caddy.log.read_text()


@contextmanager
def gateway_that_redirects() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "https://store.example.org/x?signature=opens")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_events_come_while_the_job_runs(caddy: Caddy, worker: ScriptedWorker) -> None:
    require_events_while_a_job_runs(caddy.client, caddy.url, worker)


def test_a_picture_of_megabytes_goes_in_and_too_much_is_the_gateways_to_say(
    caddy: Caddy, worker: ScriptedWorker
) -> None:
    file = file_of(noise(1200, 1200))
    assert len(file) > 2 * 2**20
    sent = caddy.client.post(f"{caddy.url}/v1/inputs", content=file, headers={"Content-Type": "image/png"})
    assert (sent.status_code, sent.headers["location"]) == (201, f"{PREFIX}/v1/inputs/{sent.json()['id']}")
    too_much = caddy.client.post(f"{caddy.url}/v1/jobs", json=PARAMETERS | {"prompt": "a" * 200_000})
    assert too_much.json()["type"] == f"{PREFIX}/problems/body-too-large", "not the proxy's page"
    stranger = {"Content-Type": "image/png", "Authorization": "Bearer drk_unknown"}
    for length, headers, slug in (
        (16 * 2**20, stranger, "unauthenticated"),
        (45 * 2**20, {"Content-Type": "image/png"}, "body-too-large"),
    ):
        refused = caddy.client.post(f"{caddy.url}/v1/inputs", content=bytes(length), headers=headers)
        assert refused.json()["type"] == f"{PREFIX}/problems/{slug}", "the gateway's own, though it did not read it all"


def test_another_name_is_shown_no_certificate(caddy: Caddy) -> None:
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", caddy.port)) as line, pytest.raises(ssl.SSLError):
        anything.wrap_socket(line, server_hostname="other.example.org")
