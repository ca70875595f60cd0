"""Which problems the routes of the web UI's API can answer with, for the OpenAPI."""

from __future__ import annotations

from typing import Any, Final

from app.edge import errors
from app.edge.problem import Problem
from app.routes.answers import ACCESS, BODY, QUEUE, SUBMIT

Responses = dict[int | str, dict[str, Any]]

_CONTENT: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/WebUiError"}}}


def _refusals(*kinds: type[Problem]) -> Responses:
    about = {"description": "The error as the web UI's clients read it", "content": _CONTENT}
    return dict.fromkeys((kind.status for kind in kinds), about)


READING: Final = _refusals(*ACCESS, errors.InvalidRequest, *QUEUE)
WRITING: Final = _refusals(*ACCESS, *BODY, errors.InvalidRequest, errors.NoModelYet, *QUEUE)
DRAWING: Final = _refusals(
    *ACCESS, *SUBMIT, errors.ContentBlocked, errors.JobWasCanceled, errors.JobFailed, errors.ModelAway
)
