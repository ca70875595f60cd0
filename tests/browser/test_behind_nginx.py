"""The page below a path of a real nginx, over HTTP/2: its files, calls, streams and pictures all come from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Page, expect

from app.contract.messages.card import ModelCard
from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.browser.conftest import find_chromium
from tests.browser.test_states import picture
from tests.nginx_server import PREFIX, Nginx, find_nginx, nginx_before

pytestmark = pytest.mark.browser


@pytest.fixture
def context_options() -> dict[str, Any]:
    """The certificate is one of the test's own."""
    return {"viewport": {"width": 1200, "height": 850}, "ignore_https_errors": True}


@pytest.fixture
def proxied(valkey_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[tuple[Nginx, Running]]:
    find_chromium()
    find_nginx()
    port = free_port()
    folder = tmp_path / "nginx"
    folder.mkdir()
    settings = settings_for(valkey_url, tmp_path, public_url=f"https://localhost:{port}{PREFIX}")
    for running in serve(settings):
        with nginx_before(folder, port=port, gateway=running.port) as nginx:
            yield nginx, running


def test_a_picture_from_the_first_click_to_its_file(
    proxied: tuple[Nginx, Running], redis_client: redis.Redis, card: ModelCard, page: Page
) -> None:
    nginx, running = proxied
    worker = ScriptedWorker(redis_client, card, running.app.state.settings)
    worker.announce()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{nginx.url}/")
    page.locator("#prompt").fill("a frog")
    page.keyboard.press("Enter")
    claim = worker.claim()
    worker.progress(claim, 5)
    worker.succeed(claim, data=picture("green"))
    shown = page.locator("img.picture")
    expect(shown).to_be_visible()
    expect(shown).to_have_js_property("complete", True)
    assert shown.evaluate("image => image.naturalWidth") == 128
    outside = [url for url in asked if not url.startswith((f"{nginx.url}/", "data:", "blob:"))]
    assert outside == []
    kinds = {url.removeprefix(f"{nginx.url}/").split("/")[0] for url in asked}
    assert {"", "static", "v1", "pictures"} <= kinds
    assert any("/events" in url for url in asked)
