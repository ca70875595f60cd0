"""A refusal as the web UI's clients read it, on the paths that only they use, and which of its routes there are not.

Refuses to know what went wrong: that is in app/edge/errors.py.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response

from app.edge.problem import Problem
from app.edge.problem_views import WebUiError

PREFIX: Final = "/sdapi/v1/"
PREFIXES: Final = (PREFIX, "/controlnet/", "/queue/")
"""Of all paths whose refusals are written so."""

NOT_SERVED: Final = {
    f"{PREFIX}extra-single-image": "Pictures are not made larger here: draw them in the size that is wanted.",
    f"{PREFIX}extra-batch-images": "Pictures are not made larger here: draw them in the size that is wanted.",
    f"{PREFIX}interrogate": "Pictures are not described here.",
}
"""Routes of the web UI that take pictures, and what to say to who sends one."""


def write(problem: Problem) -> Response:
    """The whole answer. Theirs has these four members, all of them texts."""
    error = WebUiError(error=problem.slug, detail=problem.sentence, errors=problem.sentence)
    return JSONResponse(error.model_dump(), problem.status, problem.headers)
