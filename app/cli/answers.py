"""What an answer must look like before a command believes it: a service may be another one, broken or hostile.

Knows types and ids. What is text here is still anybody's: who prints it makes it plain.
"""

from __future__ import annotations

import re
from typing import Any, Final

from app.contract.messages.input_id import is_input_id
from app.contract.messages.job import is_job_id

_WORD = re.compile(r"[a-z][a-z_-]{0,31}", re.ASCII)

NUMBER: Final = (int, float)
BEYOND: Final = 2**64
"""No seed, size or time of the service is as large."""


def fits(value: Any, shape: Any) -> bool:
    """Whether a value of JSON is of a type, one of several, a list of something, or has members that fit.

    A tuple is "one of", None stands for null, a function decides. Members that a shape does not name may be there.
    """
    if isinstance(shape, tuple):
        return any(fits(value, each) for each in shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(fits(value.get(name), inner) for name, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, type):
        if shape in NUMBER and not isinstance(value, bool):
            # Infinity, NaN and numbers of hundreds of digits are JSON to Python, and an error wherever one counts.
            return isinstance(value, shape) and -BEYOND < value < BEYOND
        return isinstance(value, shape) and not (isinstance(value, bool) and shape is not bool)
    return value is None if shape is None else bool(shape(value))


def is_id(value: Any) -> bool:
    """It becomes part of paths and of file names."""
    return isinstance(value, str) and is_job_id(value)


def is_id_of_input(value: Any) -> bool:
    """It becomes part of paths."""
    return isinstance(value, str) and is_input_id(value)


def is_word(value: Any) -> bool:
    """A state: newer services may have further ones."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _by_name(inner: Any) -> Any:
    return lambda value: isinstance(value, dict) and all(fits(each, inner) for each in value.values())


def is_shown(value: Any) -> bool:
    """What a trajectory shows: one kind of latents, or a few."""
    return isinstance(value, list) and 1 <= len(value) <= MOST_PANES and all(isinstance(each, str) for each in value)


MOST_PANES: Final = 4
PREVIEWS: Final = {"url": str, "width": int, "height": int, "columns": int, "steps": [int]}
KEPT: Final = {"steps": int, "files": _by_name({"url": str})}
IMAGE: Final = {
    "index": int, "seed": int, "width": int, "height": int, "bytes": int, "url": str, "previews": (None, PREVIEWS),
    "trajectory": (None, KEPT), "nsfw": (None, bool),
}  # fmt: skip
JOB: Final = {
    "id": is_id,
    "status": is_word,
    "model": str,
    "input": ({"prompt": str, "num_images": int}, {"texts": [str]}, {"input": list}),
    "progress": {"step": int, "steps": int, "stage": (None, str)},
    "queue": (None, {"position": (None, int)}),
    "images": [IMAGE],
    "blocked": (None, [{"index": int, "seed": int}]),
    "error": (None, {"title": str, "detail": str}),
    "warnings": [str],
    "attempts": int,
    "timings": _by_name(NUMBER),
    "priority": (None, str),
    "deadline_at": (None, str),
    "deadline_met": (None, bool),
    "metadata": _by_name(str),
    "created_at": str,
    "started_at": (None, str),
    "ended_at": (None, str),
    "expires_at": (None, str),
}
STEP: Final = {"step": int, "timestep": (None, *NUMBER), "sigma": (None, *NUMBER), "boxes": _by_name([int])}
TRAJECTORY: Final = {"show": is_shown, "steps": [STEP]}
JOBS: Final = {"data": [JOB], "next_cursor": (None, str)}
INPUT: Final = {
    "id": is_id_of_input,
    **dict.fromkeys(("bytes", "width", "height"), int),
    **dict.fromkeys(("created_at", "expires_at"), str),
}
INPUTS: Final = {"data": [INPUT], "next_cursor": (None, str)}
MODEL: Final = {
    "id": str,
    "sha256": str,
    "state": is_word,
    "workers": int,
    "width": int,
    "height": int,
    "num_inference_steps": int,
    "max_steps": int,
    "guidance_scale": NUMBER,
    "scheduler": str,
    "seats": int,
    "pace_seconds": (None, *NUMBER),
    "examples": (None, [str]),
}
MODELS: Final = {"data": [MODEL]}
CANCELLATION: Final = {"canceled": [is_id], "requested": [is_id], "has_more": bool}
COUNTS: Final = {
    **dict.fromkeys(("jobs", "succeeded", "failed", "canceled", "pictures", "evaluations", "rows"), int),
    "device_seconds": NUMBER,
    "stored_bytes": int,
    "uploaded_bytes": int,
}
DAYS: Final = {"from": str, "to": str, "data": [{"date": str, "tenant": str, **COUNTS}]}
USAGE: Final = DAYS | {"total": COUNTS}
USAGE_PAGE: Final = DAYS | {"next_cursor": (None, str)}
PROGRESS: Final = {"step": int, "steps": int, "stage": (None, str)}
STARTED: Final = {"attempts": int}


def is_job(value: Any) -> bool:
    """Whether every command can work with it."""
    return fits(value, JOB) and not (value["status"] == "failed" and value["error"] is None)


def about(job: dict[str, Any]) -> str:
    """The prompt, or what is drawn from in its place; or the task, and the texts of a job that draws nothing."""
    request = job["input"]
    points = request.get("image_embedding")
    if not request.get("prompt") and isinstance(points, dict):
        return f"image embedding: {', '.join(name for name, value in points.items() if value is not None)}"
    if "prompt" in request:
        return str(request["prompt"])
    texts = request.get("texts") or [each for each in request["input"] if isinstance(each, str)]
    return f"{job.get('task')}: {', '.join(map(str, texts)) or 'pictures'}"


def schedulers_of(models: list[dict[str, Any]], name: object) -> list[str]:
    """Those of the model of this name, or of the one that is meant without a name."""
    found = meant(models, name).get("schedulers")
    return list(found) if found and fits(found, [str]) else []


def meant(models: list[dict[str, Any]], name: object) -> dict[str, Any]:
    """The card of the model of this name, or of the one that is meant without a name; empty if there is none."""
    return next((each for each in models if (each["id"] == name if name else each.get("default"))), {})
