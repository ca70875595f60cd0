"""The parameters as the page's form reads them: a JavaScript module, made from their declarations.

Knows no parameter by name. Refuses to know how a control looks: that is static/controls.js.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from app.contract.messages.card import ModelCard
from app.contract.messages.parameter import Parameter
from app.contract.messages.series import SeriesSpec
from app.contract.messages.spec import (
    PARAMETERS,
    PLAIN,
    FileSpec,
    JobSpec,
    PictureSpec,
    PreviewSpec,
    ServedSpec,
)

PARTS: dict[str, type[BaseModel]] = {
    "served": ServedSpec,
    "picture": PictureSpec,
    "series": SeriesSpec,
    "file": FileSpec,
    "previews": PreviewSpec,
}


def parameters_module() -> str:
    """`export const PARAMETERS`: of each the name, the part of a job, type and limits, and its default in a request.
    `by_model` says that the model has a default of that name, `announced` that only some models take it. What is no
    plain value has the type "object", and needs controls of its own."""
    schemas: dict[str, dict[str, Any]] = JobSpec.model_json_schema()["properties"]
    described = [_described(name, parameter, schemas[name]) for name, parameter in PARAMETERS.items()]
    return f"export const PARAMETERS = {json.dumps(described, indent=2)};\n"


def _described(name: str, parameter: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    flat = next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), schema)
    return {
        "name": name,
        "part": next(part for part, spec in PARTS.items() if name in spec.model_fields),
        "about": parameter.about or "",
        "type": flat["type"] if name in PLAIN else "object",
        "choices": flat.get("enum", []),
        "least": parameter.least,
        "most": parameter.most,
        "default": None if parameter.default is ... else parameter.default,
        "by_model": name in ModelCard.model_fields and not parameter.announced,
        "announced": parameter.announced,
    }
