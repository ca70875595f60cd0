"""What the service refuses, in the words of the command line: options for members of a body, the nearest name for a
wrong one. Refuses to know how a request is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.cli.answers import schedulers_of
from app.cli.client import CommandError, Refused, Service
from app.cli.parameters import spellings
from app.cli.plain import plain
from app.cli.spoken import spoken
from app.cli.words import hint

OPTIONS = spellings()
"""Members of a request, as `darkroom generate` spells them."""

FEW = 6
"""Names that an error may list. Of more the nearest is told, and where the others are."""

CHOSEN = {"unknown": "scheduler", "model_unknown": "model", "model_missing": "model"}
"""Codes of refusals that list names, and of what."""

ADAPTERS = {"loras": "name", "control": "model"}
"""Lists of a request, one element for each time that their option is given, and the member that it begins with."""

_WORD = re.compile(rf"\b({'|'.join(name for name in OPTIONS if '_' in name)})\b")


async def explained(
    service: Service, refusal: CommandError, request: Mapping[str, Any], options: Mapping[str, str] = OPTIONS
) -> str:
    """The refusal of a request. Names that the service lists by the dozen are asked for, and the nearest is told."""
    if not isinstance(refusal, Refused) or not refusal.errors:
        return str(refusal)
    reasons = [await _reason(service, error, request, options) for error in refusal.errors]
    return spoken("; ".join(reasons))


async def _reason(
    service: Service, error: Mapping[str, Any], request: Mapping[str, Any], options: Mapping[str, str]
) -> str:
    name = str(error.get("pointer") or "").strip("/").replace("/", ".")
    # What is wrong inside of a picture's reference is the option's that named the picture.
    way = name.split(".")
    option = options.get(name) or (options[way[0]] + _which(way, request) if way[0] in options else name)
    detail = _WORD.sub(lambda word: options.get(word[0], word[0]), error["detail"])
    if CHOSEN.get(str(error.get("code"))) == name and "did you mean" not in detail:
        known = await _known(service, name, request)
        asked = hint(str(request.get(name) or ""), known)
        if detail.count(",") < FEW:
            detail += asked
        elif known:
            listed = "`darkroom models`" if name == "model" else "`darkroom models show`"
            given = plain(request.get(name) or "nothing", 40)
            detail = f"{given} is not one of {len(known)}{asked or '.'} {listed} lists them"
    return f"{option} {detail}".strip()


def _which(way: Sequence[str], request: Mapping[str, Any]) -> str:
    """Of an option that is given several times the one that is meant, and what of it: `loras.1.weight` is the second's
    weight. Nothing for other options, and where the request has no such element: a picture's record, which a variation
    repeats, is anybody's, and so is what the service says."""
    own, given = ADAPTERS.get(way[0]), request.get(way[0])
    if own is None or len(way) < 3 or not isinstance(given, list):
        return ""
    each = {str(place): element for place, element in enumerate(given)}.get(way[1])
    if not isinstance(each, dict) or not isinstance(each.get(own), str):
        return ""
    named = plain(each[own], 40)
    return f" {named}" if way[2] in (own, "image") else f" {named} {way[2]}"


async def _known(service: Service, name: str, request: Mapping[str, Any]) -> list[str]:
    """The names there are, nothing where they cannot be had."""
    try:
        models = await service.models()
    except CommandError:
        return []
    if name == "model":
        return [model["id"] for model in models]
    return schedulers_of(models, request.get("model"))
