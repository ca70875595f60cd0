"""`darkroom score` and `darkroom embed`: what a scorer says of pictures and texts, as a table or as the API's JSON.

Knows files, the two routes and tables. Refuses to know what a score means.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.cli.answers import NUMBER, fits
from app.cli.client import CommandError, Service, converse
from app.cli.exits import OK, REFUSED, UNREACHABLE
from app.cli.pictures_in import STDIN, GivenPicture
from app.cli.plain import plain
from app.cli.spoken import spoken
from app.cli.tables import print_table
from app.contract.messages.unclip import numbers_of

LONGEST = 60
"""Characters of a text in a table."""

SHOWN = 4
"""Numbers of a vector in a table."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""How the name of a picture ends."""

SCORE = {"texts": [str], "cosine": [[NUMBER]], "probability": [[NUMBER]], "warnings": [str]}
EMBEDDINGS = {"data": [{"embedding": str}], "dimensions": int, "warnings": [str]}

HURRY = {"Prefer": "wait=25"}
"""Seconds: less than a command waits for an answer."""


def score(
    files: Sequence[str],
    texts: Sequence[str],
    *,
    template: str | None,
    model: str | None,
    as_json: bool,
    url: str,
    api_key: str | None,
) -> int:
    """Print how well each text fits each picture. Returns the exit code."""

    async def work(service: Service) -> int:
        _require_words(texts)
        images = await _sent(service, files)
        asked = {"images": images, "texts": list(texts), "template": template, "model": model}
        found = await _asked(service, "/v1/score", asked, SCORE)
        if as_json or not is_terminal():
            print(json.dumps(found))
        else:
            _print_scores(files, found)
        _warn("score", found)
        return OK

    return converse("score", url, api_key, work)


def embed(
    texts: Sequence[str],
    files: Sequence[str],
    *,
    model: str | None,
    as_json: bool,
    url: str,
    api_key: str | None,
) -> int:
    """Print the vectors of texts and pictures. Returns the exit code."""

    async def work(service: Service) -> int:
        if not (texts or files):
            raise CommandError("say at least one text, or --image FILE", REFUSED)
        pictures = [{"image": reference} for reference in await _sent(service, files)]
        asked = {"input": [*texts, *pictures], "model": model, "encoding_format": "base64"}
        found = await _asked(service, "/v1/embeddings", asked, EMBEDDINGS)
        vectors = [list(numbers_of(each["embedding"])) for each in found["data"]]
        if as_json or not is_terminal():
            for each, vector in zip(found["data"], vectors, strict=True):
                each["embedding"] = vector
            print(json.dumps(found))
        else:
            _print_vectors([*texts, *files], vectors)
        _warn("embed", found)
        return OK

    return converse("embed", url, api_key, work)


def is_terminal() -> bool:
    """Whether somebody reads what is printed."""
    return sys.stdout.isatty()


def _require_words(texts: Sequence[str]) -> None:
    """Raises CommandError for a text that names a picture: a shell makes several words of *.png."""
    for text in texts:
        if text.lower().endswith(PICTURES) and Path(text).is_file():
            raise CommandError(f"{plain(text)} is a file: name every picture but the first with --image", REFUSED)


async def _sent(service: Service, files: Sequence[str]) -> list[dict[str, str]]:
    """References to pictures that were sent in. Raises CommandError."""
    if list(files).count(STDIN) > 1:
        raise CommandError("only one picture can come from stdin", REFUSED)
    read = [GivenPicture.read(name) for name in files]
    return [await each.send(service) for each in read]


async def _asked(service: Service, path: str, asked: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    found = await service.ask("POST", path, json=asked, headers=HURRY)
    if fits(found, shape):
        return found
    if fits(found.get("id"), str) and fits(found.get("status"), str):
        waits = f"it is {plain(found['status'])}; `darkroom jobs show {plain(found['id'])}` shows the result later"
        raise CommandError(waits, UNREACHABLE)
    raise CommandError("the service answers what no darkroom of this version does", UNREACHABLE)


def _print_scores(files: Sequence[str], found: dict[str, Any]) -> None:
    rows = []
    for file, cosines, probabilities in zip(files, found["cosine"], found["probability"], strict=True):
        fit = sorted(zip(probabilities, cosines, found["texts"], strict=True), reverse=True)
        rows += [
            (plain(file), f"{probability:.1%}", f"{cosine:.3f}", plain(text, LONGEST))
            for probability, cosine, text in fit
        ]
    print_table(("picture", "probability", "cosine", "text"), rows)


def _print_vectors(names: Sequence[str], vectors: Sequence[list[float]]) -> None:
    first = vectors[0]
    rows = [
        (
            plain(name, LONGEST),
            f"{sum(a * b for a, b in zip(first, vector, strict=True)):.3f}",
            ", ".join(f"{number:.3f}" for number in vector[:SHOWN]) + f", … {len(vector)} numbers",
        )
        for name, vector in zip(names, vectors, strict=True)
    ]
    print_table(("input", "cosine to the first", "vector"), rows)


def _warn(command: str, found: dict[str, Any]) -> None:
    for warning in found["warnings"]:
        print(f"darkroom {command}: {spoken(warning)}", file=sys.stderr)
