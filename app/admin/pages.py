"""Pages of the operator's lists: a cursor names the place after the last entry that was shown. And lists as CSV.

Knows how a place and a row are written. Refuses to know what the lists hold.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.edge.errors import InvalidRequest

Entry = TypeVar("Entry")

Limit = Annotated[int, Query(ge=1, le=1_000, description="Entries of one answer, at most")]
Cursor = Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")]


def page(
    entries: Sequence[Entry],
    place_of: Callable[[Entry], tuple[Any, ...]],
    *,
    kinds: tuple[type, ...],
    limit: int,
    cursor: str | None,
) -> tuple[list[Entry], str | None]:
    """The entries after the cursor's place, at most `limit`, and the cursor of the next page. `entries` are in the
    order of their places, whose parts are of these `kinds`. Raises InvalidRequest for a cursor that is none."""
    after = read_place(cursor, kinds) if cursor is not None else None
    left = [each for each in entries if after is None or place_of(each) > after]
    return left[:limit], write_place(place_of(left[limit - 1])) if len(left) > limit else None


def write_place(place: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_place(cursor: str, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """The place that was written, of parts of these kinds. Raises InvalidRequest."""
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or [type(part) for part in place] != [*kinds]:
        raise cursor_unknown()
    return tuple(place)


def cursor_unknown() -> InvalidRequest:
    detail = "is not the next_cursor of an earlier answer"
    error = {"parameter": "cursor", "code": "cursor_unknown", "detail": detail}
    return InvalidRequest("The cursor cannot be used; leave it out to start at the beginning.", errors=[error])


def as_csv(kind: type[BaseModel], rows: Iterable[BaseModel]) -> str:
    """A line for each, after one with the names of the fields (RFC 4180)."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [*kind.model_fields])
    writer.writeheader()
    writer.writerows(row.model_dump(mode="json") for row in rows)
    return file.getvalue()
