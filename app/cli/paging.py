"""Lists that come page by page, from a service that may be anybody's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


async def pages(ask: Callable[[str | None], Awaitable[dict[str, Any]]]) -> AsyncIterator[dict[str, Any]]:
    """Each page of a list; `ask` gets its cursor, None for the first. A cursor that comes again would lead round
    for ever, and a page without entries to more of them: the list ends there."""
    cursor: str | None = None
    seen: set[str | None] = set()
    while cursor not in seen:
        seen.add(cursor)
        page = await ask(cursor)
        yield page
        # The last page has null, which was the first one's.
        cursor = page["next_cursor"] if page["data"] else None
