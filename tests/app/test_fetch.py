"""Pictures behind links: what is fetched, what is refused, and that every hop is judged. Only loopback is dialled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest

from app.outbound.dial import GuardedBackend
from app.outbound.fetch import Fetcher, NotFetched
from tests.app.conftest import Running, ScriptedWorker
from tests.app.test_references import card, send
from tests.pictures import file_of, noise

pytestmark = pytest.mark.anyio
__all__ = ["card"]

PNG = file_of(noise(64, 64))
LOOPBACK = [ip_network("127.0.0.0/8")]


class Pages(BaseHTTPRequestHandler):
    """Answers by the path that is asked for."""

    asked: list[dict[str, str]]

    def do_GET(self) -> None:
        type(self).asked.append({name.lower(): value for name, value in self.headers.items()})
        status, headers, body = self._page(self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _page(self, path: str) -> tuple[int, dict[str, str], bytes]:
        pages: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/a.png": (200, {"Content-Type": "image/png"}, PNG),
            "/bare": (200, {}, PNG),
            "/moved": (302, {"Location": "/a.png"}, b""),
            "/in-a-circle": (302, {"Location": "/in-a-circle"}, b""),
            "/to-metadata": (302, {"Location": "http://169.254.169.254/latest/"}, b""),
            "/to-a-file": (302, {"Location": "file:///etc/passwd"}, b""),
            "/html": (200, {"Content-Type": "text/html"}, b"<html>"),
            "/packed": (200, {"Content-Type": "image/png", "Content-Encoding": "gzip"}, PNG),
            "/broken-off": (200, {"Content-Type": "image/png", "Content-Length": "99999"}, PNG),
            "/large": (200, {"Content-Type": "image/png"}, b"\x00" * 200_000),
        }
        return pages.get(path, (404, {"Content-Type": "image/png"}, PNG))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[ThreadingHTTPServer]:
    Pages.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetcher(pages: ThreadingHTTPServer) -> Fetcher:
    backend = GuardedBackend(allow_cidrs=LOOPBACK)
    return Fetcher(backend, allow_http=True, allow_ports=(pages.server_port,), allow_cidrs=LOOPBACK)


def link(pages: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{pages.server_port}{path}"


@pytest.mark.parametrize("path", ["/a.png", "/bare", "/moved"])
async def test_a_file_is_fetched(pages: ThreadingHTTPServer, fetcher: Fetcher, path: str) -> None:
    assert await fetcher.get(link(pages, path), most_bytes=100_000) == PNG
    assert Pages.asked[0]["user-agent"].endswith("(inputs)")
    assert not Pages.asked[0].keys() & {"cookie", "authorization", "referer"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nothing", "no_answer"),
        ("/in-a-circle", "too_many_redirects"),
        ("/to-metadata", "url_refused"),
        ("/to-a-file", "url_refused"),
        ("/html", "not_a_picture"),
        ("/packed", "not_a_picture"),
        ("/broken-off", "broken_off"),
        ("/large", "too_large"),
    ],
)
async def test_what_is_not_fetched(pages: ThreadingHTTPServer, fetcher: Fetcher, path: str, code: str) -> None:
    with pytest.raises(NotFetched) as refused:
        await fetcher.get(link(pages, path), most_bytes=100_000)
    assert refused.value.code == code
    assert "169.254" not in refused.value.detail


async def test_a_name_that_leads_inside_is_refused_and_not_dialled(pages: ThreadingHTTPServer) -> None:
    """Also by a redirect's or a resolver's second thoughts: what is judged is what is dialled."""

    async def resolver(_: str, __: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    fetcher = Fetcher(GuardedBackend(resolver=resolver), allow_http=True, allow_ports=(pages.server_port,))
    with pytest.raises(NotFetched) as refused:
        await fetcher.get(f"http://pictures.example.org:{pages.server_port}/a.png", most_bytes=100_000)
    assert refused.value.code == "url_refused"
    assert Pages.asked == []


async def test_nobody_is_waited_for_for_ever() -> None:
    """A resolver that never answers."""

    async def resolver(_: str, __: int) -> list[str]:
        await forever.wait()
        return []

    forever = asyncio.Event()
    fetcher = Fetcher(GuardedBackend(resolver=resolver), deadline=0.05)
    with pytest.raises(NotFetched) as refused:
        await fetcher.get("https://pictures.example.org/a.png", most_bytes=100_000)
    assert refused.value.code == "too_slow"


def test_a_job_whose_picture_is_behind_a_link(
    client: Any,
    running: Running,
    worker: ScriptedWorker,
    pages: ThreadingHTTPServer,
    fetcher: Fetcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running.app.state.services.references, "_fetch", fetcher)
    job = send(client, image={"url": link(pages, "/moved")})
    assert job.status_code == 202, job.text
    assert (job.json()["input"]["image"]["width"], worker.claim().spec.strength) == (64, 0.8)
    [error] = send(client, image={"url": link(pages, "/nothing")}).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/image/url", "no_answer")
