"""A wish in the words of a dialect, on its way into ours: what means the same, and how an error is said in their words.

Knows parameters by name. Refuses to know a dialect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.contract.params import JobRequest, ParamError, ParamsRejected


class Wording:
    """`fields` are ours, as they were given. `put` adds what the caller said in other words."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._theirs: dict[str, str] = {}
        self._twice: list[ParamError] = []

    def put(self, word: str, **ours: Any) -> None:
        """Their word, and what it says in ours."""
        for name, value in ours.items():
            if self._fields.setdefault(name, value) == value:
                self._theirs[f"/{name}"] = f"/{word}"
            else:
                detail = f"is given as {word} as well, with another value"
                self._twice.append(ParamError(f"/{name}", "said_twice", detail))

    def wish(self, **more: Any) -> JobRequest:
        """The job that is meant, with `more` of our fields. Raises ParamsRejected where two words say two things, and
        pydantic.ValidationError for values that were not measured yet."""
        if self._twice:
            raise ParamsRejected(self._twice)
        return JobRequest(**self._fields, **more)

    def in_their_words(self, error: ParamsRejected) -> ParamsRejected:
        """The same errors, at the parameters that the caller wrote."""
        return ParamsRejected([replace(e, pointer=self._theirs.get(e.pointer, e.pointer)) for e in error.errors])


def sides(size: str) -> dict[str, int]:
    """Of "WxH"."""
    width, height = map(int, size.split("x"))
    return {"width": width, "height": height}
