"""Which of several kinds of answer a client prefers: by its Accept header, or of tables by `format` as well.

Knows the header. Refuses to know what is in an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Header, Query

Format = Annotated[Literal["json", "csv"] | None, Query(description="Missing: as Accept says, else JSON")]
Accept = Annotated[str, Header(description="application/json or text/csv")]
TABLE_TYPES = {"json": "application/json", "csv": "text/csv"}


def table_of(model: type[Any], about: str) -> dict[str, Any]:
    """For `responses=` of a route: a table as JSON of this model, and as CSV."""
    return {"model": model, "description": about, "content": {"text/csv": {"schema": {"type": "string"}}}}


def wants_csv(format: str | None, accept: str) -> bool:
    """Of a table."""
    return (format or preferred(accept, TABLE_TYPES)) == "csv"


def preferred(accept: str, types: Mapping[str, str]) -> str:
    """The kind that an Accept header prefers, of those whose media types are given (RFC 9110, 12.5.1). Of what it
    leaves equal, and where it wants none of them, the first."""
    wanted = [_range_of(each) for each in accept.split(",") if each.strip()]

    def quality(media_type: str) -> float:
        patterns = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        found = [next((q for name, q in wanted if name == pattern), None) for pattern in patterns]
        return next((q for q in found if q is not None), 0.0)

    qualities = {kind: quality(media_type) for kind, media_type in types.items()}
    best = max(qualities.values())
    return next(kind for kind, q in qualities.items() if q == best)


def _range_of(text: str) -> tuple[str, float]:
    name, *options = (part.strip().lower() for part in text.split(";"))
    weight = next((option[2:] for option in options if option.startswith("q=")), "1")
    try:
        return name, min(1.0, max(0.0, float(weight)))
    except ValueError:
        return name, 0.0
