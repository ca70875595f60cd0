"""What is waited for in a browser test is waited for while the browser is spoken to (waiting.py says why)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.waiting import until

FILES = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != "waiting.py")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_no_browser_test_waits_with_its_back_to_the_browser(file: Path) -> None:
    tree = ast.parse(file.read_text())
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "tests.waiting"]
    assert "until" not in [name.name for node in taken for name in node.names]


def test_a_request_that_the_page_sends_later_is_heard_of(page: Page) -> None:
    heard: list[str] = []
    page.route("**/later", lambda route: (heard.append(route.request.url), route.fulfill(body="")))
    page.route("**/at-once", lambda route: route.fulfill(body="<p>here</p>", content_type="text/html"))
    page.goto("http://localhost/at-once")
    page.evaluate("() => { setTimeout(() => fetch('/later'), 300); }")
    assert until(page, lambda: heard) == ["http://localhost/later"]
