"""How browser tests wait: while the browser is spoken to.

Playwright's synchronous API tells of requests, routes and console lines only while the test is inside one of its calls.
A test that waits in plain Python for something that the page sends therefore waits for ever, unless it was sent before.
"""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from tests import waiting
from tests.waiting import T


def until(page: Page, true: Callable[[], T]) -> T:
    """What `true` returns once it is truthy, with the page's own events told meanwhile. TimeoutError as elsewhere."""

    def spoken_to() -> T:
        # Only to let Playwright hand out what has come in.
        page.evaluate("0")
        return true()

    return waiting.until(spoken_to)
