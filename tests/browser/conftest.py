"""A real browser on the page: Chromium through Playwright, and an ear for what a user would never see.

Every page that a test opens fails the test when the console shows an error or the Content-Security-Policy was broken.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
import redis
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from app.contract.messages.card import ModelCard
from tests.app.conftest import Running, ScriptedWorker, serve, settings_for
from tests.app.conftest import _nobody_is_late as _nobody_is_late
from tests.browser.edits import Door
from tests.browser.waiting import until
from tests.conftest import IN_CI
from tests.system.conftest import Installation
from tests.waiting import WAIT_SECONDS

CANDIDATES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""The headless shell opens a page for a fifth of the processor time: a whole browser draws a window around it."""

CHOSEN = "DARKROOM_TEST_BROWSER"
SWITCHES = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 1_000 * WAIT_SECONDS
expect.set_options(timeout=WAIT_MS)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error("CSP", event.violatedDirective, event.blockedURI));
"""


def find_chromium() -> str:
    """The browser's program. Without one the tests are skipped, and in CI they fail."""
    named = os.environ.get(CHOSEN)
    found = named or next((path for name in CANDIDATES if (path := shutil.which(name))), None)
    if found:
        return found
    reason = f"no Chromium here: `make browser-deps` installs Debian's, {CHOSEN} names another"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one file: Playwright's event loop counts as running in this thread until it is closed.

    Left open for the session, it fails every later test that runs a loop of its own.
    """
    program = find_chromium()
    # Chromium's sandbox refuses to run as root.
    switches = [*SWITCHES, "--no-sandbox"] if os.geteuid() == 0 else SWITCHES
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=switches, timeout=WAIT_MS)
        yield browser
        browser.close()


@dataclass
class Ear:
    """What the console said. A test that brings a fault about names the complaint it expects in `forgives`."""

    complaints: list[str] = field(default_factory=list)
    forgives: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    @property
    def unforgiven(self) -> list[str]:
        return [each for each in self.complaints if not any(re.search(pattern, each) for pattern in self.forgives)]


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    yield ear
    assert ear.unforgiven == []


@pytest.fixture
def context_options() -> dict[str, Any]:
    """How the browser looks at the page; a test may parametrise it."""
    return {"viewport": {"width": 1200, "height": 850}}


@pytest.fixture
def page(browser: Browser, ear: Ear, context_options: dict[str, Any]) -> Iterator[Page]:
    """An empty tab of a browser that has never been here."""
    context = browser.new_context(**context_options)
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(TELL_VIOLATIONS)
    page = context.new_page()
    page.on("console", ear.hear)
    page.on("pageerror", lambda error: ear.complaints.append(f"exception: {error}"))
    yield page
    context.close()


@pytest.fixture(autouse=True)
def _worker_waits_with_the_page(request: pytest.FixtureRequest) -> None:
    """What the page sends goes out while the browser is spoken to, so the worker that waits for it speaks to it."""
    if {"page", "worker"} <= set(request.fixturenames):
        worker: ScriptedWorker = request.getfixturevalue("worker")
        worker.until = partial(until, request.getfixturevalue("page"))


def faults_of_access(page: Page) -> list[str]:
    """What axe-core finds serious or critical on the page as it stands."""
    # A page's own policy stops injected scripts, so axe runs in the debugger's world, as Playwright's evaluate does.
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]} ({node['failureSummary']})"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, shared_machine: dict[str, str]) -> Iterator[Installation]:
    """The whole service with the bundled model, shared by the tests of a file."""
    find_chromium()
    installation = Installation(tmp_path_factory.mktemp("installation") / "data", environment=dict(shared_machine))
    installation.start_and_wait()
    yield installation
    installation.kill_everything()


def picture(colour: str, *, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), colour).save(file, kind)
    return file.getvalue()


@pytest.fixture
def gateway_options() -> dict[str, Any]:
    return {}


@pytest.fixture
def running(
    valkey_url: str, redis_client: redis.Redis, tmp_path: Path, gateway_options: dict[str, Any]
) -> Iterator[Running]:
    find_chromium()
    yield from serve(settings_for(valkey_url, tmp_path, **gateway_options))


@pytest.fixture
def worker(redis_client: redis.Redis, card: ModelCard, running: Running) -> ScriptedWorker:
    worker = ScriptedWorker(redis_client, card, running.app.state.settings)
    worker.announce()
    return worker


@pytest.fixture
def opened(running: Running, worker: ScriptedWorker, page: Page) -> Page:
    page.goto(running.url)
    expect(page.locator("#size")).to_be_attached()
    return page


@pytest.fixture
def door(page: Page) -> Door:
    return Door(page)


def ask(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def look(page: Page) -> None:
    """Have the page ask for everything at once."""
    page.evaluate("dispatchEvent(new Event('online'))")


def failed(page: Page, worker: ScriptedWorker, *prompts: str) -> None:
    """A job of each prompt on the wall, which has failed."""
    for prompt in prompts:
        ask(page, prompt)
        worker.fail(worker.claim())
    expect(page.locator("[data-status=failed]")).to_have_count(len(prompts))
