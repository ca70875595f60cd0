"""A refusal as OpenAI's clients read it, on the paths that only they use.

Refuses to know what went wrong: that is in app/edge/errors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from app.edge.errors import ContentBlocked, InvalidRequest
from app.edge.problem import Problem

PATHS: Final = frozenset({*(f"/v1/images/{name}" for name in ("generations", "edits", "variations")), "/v1/embeddings"})

CLIENT: Final = "x-stainless-lang"
"""Header of every request of OpenAI's own clients."""

MODEL_UNKNOWN: Final = "model_unknown"
"""Code of the field error that OpenAI's clients expect as 404."""

FIXED_NAMES: Final = (
    "If a program insists on this name, whoever runs the service can give it to a model: "
    "`darkroom models alias NAME MODEL`."
)

MODERATION_BLOCKED: Final = {"type": "image_generation_user_error", "param": None, "code": "moderation_blocked"}
"""What their service says of pictures that its safety system holds back."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_object(problem: Problem) -> dict[str, Any]:
    """The object under "error", also inside a stream. Of the fields the first that is wrong is told, with all
    that is wrong with it: of `size` both sides."""
    if isinstance(problem, ContentBlocked):
        return {"message": problem.detail, **MODERATION_BLOCKED}
    first: Any = problem.errors[0] if problem.errors else {}
    param = first.get("pointer", "").strip("/").replace("/", ".") or first.get("parameter")
    its = [each["detail"] for each in problem.errors if _place(each) == _place(first)]
    said = f"{param or 'the request'} {'; '.join(its)}" if first else problem.detail
    kind = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    code = first.get("code", problem.slug)
    if code == MODEL_UNKNOWN:
        said, code = f"{said}. {FIXED_NAMES}", "model_not_found"
    return {"message": said, "type": kind, "param": param, "code": code}


def member(problem: Problem) -> dict[str, Any]:
    """What those clients look for in any refusal: without it they say no more than its status."""
    return {"error": error_object(problem)}


def _place(error: Mapping[str, str]) -> tuple[str | None, str | None]:
    return error.get("pointer"), error.get("parameter")


def write(problem: Problem) -> Response:
    """The whole answer."""
    # Their 422 is for files; a wrong parameter is a BadRequestError, a wrong model a NotFoundError.
    status = problem.status
    if isinstance(problem, InvalidRequest):
        status = 404 if any(error.get("code") == MODEL_UNKNOWN for error in problem.errors) else 400
    return JSONResponse(member(problem), status, problem.headers)
