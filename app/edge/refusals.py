"""How a refusal is written: as RFC 9457 has it, or in the words of a dialect on the paths that only its clients use.

Knows shapes and paths. Refuses to know what went wrong: that is in errors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from app.edge.errors import NotServedHere
from app.edge.problem import MEDIA_TYPE, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Made once, from what the dialects bring.

    `writers` are the dialects' own, by path; one that ends with "/" stands for all that begin so. On every other path
    `members` are what a dialect's clients read of an answer beside what RFC 9457 has, by a header that only they send.
    `not_served` has a sentence for each route of theirs that there is not. `prefix` is the path under which a proxy
    shows the service.
    """

    prefix: str = ""
    writers: Mapping[str, Callable[[Problem], Response]] = field(default_factory=dict)
    members: Mapping[str, Callable[[Problem], dict[str, Any]]] = field(default_factory=dict)
    not_served: Mapping[str, str] = field(default_factory=dict)

    def write(self, problem: Problem, request_id: str, path: str, headers: Container[str]) -> Response:
        """The refusal as the callers of this path read it; `headers` are those of the request."""
        own = self.writers.get(path) or next((w for p, w in self.writers.items() if _is_below(path, p)), None)
        if own:
            return own(problem)
        body = _rfc_9457(problem, request_id, prefix=self.prefix)
        for header, members in self.members.items():
            if header in headers:
                body |= members(problem)
        return JSONResponse(body, problem.status, problem.headers, media_type=MEDIA_TYPE)

    def refuse_unserved(self, method: str, path: str) -> None:
        """Raises NotServedHere for a route of a dialect that there is not."""
        if method == "POST" and path in self.not_served:
            raise NotServedHere(self.not_served[path])


def _is_below(path: str, prefix: str) -> bool:
    return prefix.endswith("/") and path.startswith(prefix)


def _rfc_9457(problem: Problem, request_id: str, *, prefix: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": f"{prefix}/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:darkroom:request:{request_id}",
    }
    if problem.errors:
        body["errors"] = problem.errors
    if "Location" in problem.headers:
        body["location"] = problem.headers["Location"]
    return body
