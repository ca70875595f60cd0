"""Which pages may change something where nobody needs a key: the service's own, and those that the operator names.

Without keys somebody's browser is all that a request needs, and a page of any site may have it send one: a form with
a picture goes out without a preflight (https://fetch.spec.whatwg.org, "CORS-safelisted request-header"). Its answer is
kept from the page, but what was asked for is done. Refuses to know keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers

from app.edge.auth import SAFE_METHODS

OURS: Final = frozenset({"same-origin", "none"})
"""Of `Sec-Fetch-Site`: this service's own page, or no page."""


@dataclass(frozen=True, slots=True)
class Pages:
    """`origins` are those of other pages that may ask, as browsers send them."""

    origins: frozenset[str]

    @classmethod
    def of(cls, origins: Iterable[str]) -> Pages:
        return cls(frozenset(origins))

    def may_ask(self, method: str, headers: Headers) -> bool:
        """Whether the request is of no page of another site, so far as browsers say so. The rules are those of Go's
        net/http (CrossOriginProtection, 1.25): `Sec-Fetch-Site` where there is one, which browsers send to https and to
        loopback, else the host of `Origin`. What is no browser sends neither."""
        origin = headers.get("origin")
        if method in SAFE_METHODS or origin in self.origins:
            return True
        if site := headers.get("sec-fetch-site"):
            return site in OURS
        return origin is None or origin.partition("://")[2] == headers.get("host")
