"""What all problems of errors.py have in common: a status, a slug with a page, and what an answer says of this one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """Something is wrong with the request, or with us. The detail of the answer says what.

    Each class below says its `slug` and `title` where it is declared, and its `status` where that is another.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "problem"
    title: ClassVar[str] = "Something is wrong"
    usual: ClassVar[str] = "Something is wrong."
    """The detail where none is given."""

    def __init_subclass__(cls, *, slug: str, title: str, status: int | None = None) -> None:
        super().__init_subclass__()
        cls.slug, cls.title = slug, title
        cls.status = cls.status if status is None else status

    def __init__(
        self, detail: str = "", *, headers: Mapping[str, str] | None = None, errors: Sequence[Mapping[str, str]] = ()
    ) -> None:
        self.detail = detail or self.usual
        super().__init__(self.detail)
        self.headers = dict(headers or {})
        self.errors = list(errors)

    @property
    def sentence(self) -> str:
        """All in one text: what is wrong with each field, or the detail. For dialects whose errors have no fields."""
        return "; ".join(map(_of_field, self.errors)) or self.detail

    @classmethod
    def meaning(cls) -> str:
        """The class's docstring as flowing text."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def below(cls) -> Iterator[type[Problem]]:
        """Every class below this one, in the order of the tree."""
        for child in cls.__subclasses__():
            yield child
            yield from child.below()


def _of_field(error: Mapping[str, str]) -> str:
    place = error.get("pointer", "").strip("/") or error.get("parameter")
    return f"{place or 'the request'} {error['detail']}"
