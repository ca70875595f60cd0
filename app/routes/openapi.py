"""What FastAPI cannot know about the API, added to the OpenAPI that it generates.

Knows documents only: the guard and the error handler do what is said here.
"""

from __future__ import annotations

from typing import Any

from app.edge.guard import is_open
from app.edge.problem_views import HuggingFaceError, OpenAIError, ProblemView, WebUiError
from app.jobs.schemas import JOB_EXAMPLE

_REF = "#/components/schemas/{model}"
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")


def complete(schema: dict[str, Any], *, keyed: bool) -> None:
    """Put the problem's shape, an example with its nulls, and the key into a generated document, in place."""
    components = schema.setdefault("components", {})
    shapes: dict[str, Any] = components.setdefault("schemas", {})
    problem = ProblemView.model_json_schema(ref_template=_REF)
    shapes |= problem.pop("$defs", {}) | {"ProblemView": problem}
    shapes["WebUiError"] = WebUiError.model_json_schema(ref_template=_REF)
    shapes["HuggingFaceError"] = HuggingFaceError.model_json_schema(ref_template=_REF)
    error = OpenAIError.model_json_schema(ref_template=_REF)
    shapes |= error.pop("$defs", {}) | {"OpenAIError": error}
    # FastAPI leaves nulls out of what it generates, and the example would not fit its own schema.
    shapes["JobView"]["examples"] = [JOB_EXAMPLE]
    for operations in schema["paths"].values():
        for operation in operations.values():
            _forget_the_default_422(operation["responses"])
    for name in _FASTAPIS_OWN:
        shapes.pop(name, None)
    for path, operations in schema["paths"].items():
        if is_open(path):
            for operation in operations.values():
                operation["security"] = []
    if keyed:
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "Any user; the key as the password"},
        }
        schema["security"] = [{"key": []}, {"password": []}]


def _forget_the_default_422(responses: dict[str, Any]) -> None:
    # Added to every route with a parameter; routes whose parameters can be wrong declare ours instead.
    schema = responses.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").endswith(_FASTAPIS_OWN):
        del responses["422"]
