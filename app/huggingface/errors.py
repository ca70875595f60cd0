"""A refusal as huggingface_hub's client reads it, on the path that only it uses.

Refuses to know what went wrong: that is in app/edge/errors.py.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from app.edge import errors
from app.edge.problem import Problem
from app.routes.answers import ACCESS, SUBMIT

PATHS: Final = frozenset({"/v1/zero-shot-image-classification"})

_KINDS = (*ACCESS, *SUBMIT, errors.TooManyUploads, errors.ModelAway, errors.JobFailed, errors.JobWasCanceled)
_SHAPE = {"application/json": {"schema": {"$ref": "#/components/schemas/HuggingFaceError"}}}

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": "The error as Hugging Face's client reads it", "content": _SHAPE}
    for status in {kind.status for kind in _KINDS}
}
"""Of the routes, for the OpenAPI."""


def write(problem: Problem) -> Response:
    """The whole answer. Its client shows `error`."""
    return JSONResponse({"error": problem.sentence, "error_type": problem.slug}, problem.status, problem.headers)
