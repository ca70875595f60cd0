"""What a model folder is called: one legal name, or one sentence, before anything in the folder is opened.

Knows paths and what a name may be; `worker`, `doctor` and `up` all ask here. Refuses to know what a folder holds.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

BUNDLED_MODEL = Path(__file__).parents[3] / "models" / "starter"
BUNDLED_SCORER = BUNDLED_MODEL.with_name("starter-scorer")
BUNDLED_UNCLIP = BUNDLED_MODEL.with_name("starter-unclip")

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""A name is part of Redis keys, of RQ's queue, of URLs and of file names."""

LONGEST_NAME = 64

LEGAL = "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
"""What the programs of others call their models, stability-ai/sdxl among them."""

LEGAL_ALIAS = "1 to 64 of letters, digits, '.', '_', ':', '/' and '-', beginning with a letter or a digit"

_SNAPSHOTS, _REPOSITORY = "snapshots", "models--"


class IllegalName(ValueError):
    """No request could name the model. `str()` is one sentence with the remedy."""


def is_legal(name: str) -> bool:
    return re.fullmatch(NAME_PATTERN.strip("^$"), name) is not None


def is_legal_alias(name: str) -> bool:
    return _ALIAS.fullmatch(name) is not None


def model_name(folder: Path, chosen: str | None = None) -> str:
    """How requests call the model in `folder`: `chosen` (DARKROOM_MODEL_NAME) if there is one, else the folder's name
    in small letters.

    Links are followed first, so that a folder has one name whichever way it is reached; a snapshot in the cache of the
    Hugging Face hub has its repository's name. Raises IllegalName.
    """
    if chosen:
        if is_legal(chosen):
            return chosen
        raise IllegalName(f"DARKROOM_MODEL_NAME is no name of a model: that is {LEGAL}; {_proposal(chosen)}")
    name = folder_name(folder)
    if is_legal(name):
        return name
    raise IllegalName(f"{folder} has no name that requests could use: that is {LEGAL}; {_proposal(name)}")


def folder_name(folder: Path) -> str:
    """What a folder is called, or a hub's repository, in small letters; it may not be legal."""
    path = Path(os.path.realpath(folder))
    repository = path.parents[1].name if len(path.parents) > 1 else ""
    if path.parent.name == _SNAPSHOTS and repository.startswith(_REPOSITORY):
        # models--<organisation>--<name>, or models--<name> for the first models of the hub.
        return repository.rsplit("--", 1)[-1].lower()
    return path.name.lower()


def _proposal(name: str) -> str:
    """The nearest legal name, for somebody to copy."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9._]+", "-", plain).lstrip("._-")[:LONGEST_NAME].rstrip("._-")
    return f"set DARKROOM_MODEL_NAME, for example DARKROOM_MODEL_NAME={words or 'my-model'}"
