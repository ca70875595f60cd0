"""In whose words a refusal is written: RFC 9457 everywhere, OpenAI's on the routes that only OpenAI's clients use.

Knows the two shapes. Refuses to know what went wrong: that is in errors.py.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from app.edge.errors import MEDIA_TYPE, InvalidRequest, NotServedHere, Problem

NOT_SERVED: Final = {
    "/v1/images/edits": "Pictures cannot be edited here",
    "/v1/images/variations": "Variations of a picture cannot be made here",
}
"""OpenAI's routes that take files, and what to say to who sends one."""

OPENAI_PATHS: Final = frozenset({"/v1/images/generations", *NOT_SERVED})

MODEL_UNKNOWN: Final = "model_unknown"
"""Code of the field error that OpenAI's clients expect as 404."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def answer(problem: Problem, request_id: str, path: str, *, prefix: str = "") -> Response:
    """The refusal as the callers of this path read it. `prefix` is the path under which a proxy shows the service."""
    return _openai(problem) if path in OPENAI_PATHS else _rfc_9457(problem, request_id, prefix=prefix)


def refuse_unserved(method: str, path: str) -> None:
    """Raises NotServedHere for a route of OpenAI's that there is not."""
    if method == "POST" and path in NOT_SERVED:
        detail = f"{NOT_SERVED[path]}: this service draws from words alone, with POST /v1/images/generations."
        raise NotServedHere(detail)


def openai_error(problem: Problem) -> dict[str, Any]:
    """The object under "error", also inside a stream. What is wrong with a field is said about the first one."""
    first: Any = problem.errors[0] if problem.errors else {}
    param = first.get("pointer", "").strip("/").replace("/", ".") or first.get("parameter")
    said = f"{param or 'the request'} {first['detail']}" if first else problem.detail
    kind = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    code = first.get("code", problem.slug)
    return {"message": said, "type": kind, "param": param, "code": "model_not_found" if code == MODEL_UNKNOWN else code}


def _openai(problem: Problem) -> Response:
    # Their 422 is for files; a wrong parameter is a BadRequestError, a wrong model a NotFoundError.
    status = problem.status
    if isinstance(problem, InvalidRequest):
        status = 404 if any(error.get("code") == MODEL_UNKNOWN for error in problem.errors) else 400
    return JSONResponse({"error": openai_error(problem)}, status, problem.headers)


def _rfc_9457(problem: Problem, request_id: str, *, prefix: str = "") -> Response:
    body: dict[str, Any] = {
        "type": f"{prefix}/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:darkroom:request:{request_id}",
    }
    if problem.errors:
        body["errors"] = problem.errors
    return JSONResponse(body, problem.status, problem.headers, media_type=MEDIA_TYPE)
