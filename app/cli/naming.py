"""How pictures are called on disk: a file, a folder or a pattern, and never over a file that is there already.

Names that we choose step aside by a number. A name that was given and is taken is refused before anything is drawn.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from app.cli.client import CommandError, Job
from app.cli.exits import REFUSED
from app.cli.words import nearest

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Suffix to output_format."""

IN_A_FOLDER = "{prompt}-{seed}.png"
PLACEHOLDERS = ("prompt", "seed", "job", "number", "index", "model")
"""What a pattern may hold: words of the prompt, the picture's seed, the job's id, the picture's place among all and
within its job, from 0, and the model."""

LONGEST_WORDS = 48
LONGEST_NAME = 255
"""Bytes: what Linux and macOS allow."""
_UNSAFE = re.compile(r"[^\w-]")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Names:
    """Names for `pictures` pictures. Raises CommandError for an output that cannot work."""

    def __init__(self, output: str, *, pictures: int, overwrite: bool = False) -> None:
        self._is_made_here = output.endswith("/") and not os.path.isdir(output)
        if self._is_made_here:
            _refuse_unmakeable(Path(output))
        is_folder = self._is_made_here or os.path.isdir(output)
        self._pattern = str(Path(output) / IN_A_FOLDER) if is_folder else output
        self._is_chosen = bool(_PLACEHOLDER.search(self._pattern))
        self._several = pictures > 1
        self._overwrite = overwrite
        self._used: set[Path] = set()
        self.output_format = _format_of(self._pattern)
        unknown = set(_PLACEHOLDER.findall(self._pattern)) - set(PLACEHOLDERS)
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            word = min(unknown)
            close = nearest(word, PLACEHOLDERS)
            meant = f"did you mean {{{close}}}?" if close else f"a pattern may hold {known}"
            raise CommandError(f"{{{word}}} in -o means nothing; {meant}", REFUSED)
        self._refuse_taken(pictures)

    def write(self, data: bytes, job: Job, picture: Mapping[str, Any], *, number: int) -> Path:
        """Save a picture of a job, `number` of all. Raises CommandError."""
        wanted = self._name(job, picture, number=number)
        try:
            wanted.parent.mkdir(exist_ok=True)
            for path in _steps_aside(wanted):
                if path not in self._used and self._try(path, data):
                    self._used.add(path)
                    return path
        except OSError as error:
            raise CommandError(f"{wanted} cannot be written: {error.strerror}; choose another -o", REFUSED) from None
        raise AssertionError("names do not end. This is a bug.")

    def _try(self, path: Path, data: bytes) -> bool:
        """False if there is such a file already."""
        try:
            file = path.open("wb" if self._overwrite else "xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def _name(self, job: Job, picture: Mapping[str, Any], *, number: int) -> Path:
        if not self._is_chosen:
            return self._given(number)
        values: dict[str, Any] = {
            "prompt": words(job["input"]["prompt"]),
            "seed": picture["seed"],
            "job": job["id"],
            "number": number,
            "index": picture["index"],
            "model": words(job["model"]),
        }
        # A part of a name and never a step in a path, whatever the service calls its jobs.
        return Path(_PLACEHOLDER.sub(lambda found: _UNSAFE.sub("-", str(values[found[1]])), self._pattern))

    def _given(self, number: int) -> Path:
        """out.png, or out-0.png, out-1.png, … for several pictures."""
        path = Path(self._pattern)
        return path.with_stem(f"{path.stem}-{number}") if self._several else path

    def _refuse_taken(self, pictures: int) -> None:
        if self._is_made_here:
            return
        folder = Path(self._pattern.partition("{")[0] + "x").parent if self._is_chosen else Path(self._pattern).parent
        if not folder.is_dir():
            raise CommandError(f"the folder {folder} does not exist; create it, or choose another -o", REFUSED)
        if not os.access(folder, os.W_OK):
            raise CommandError(f"the folder {folder} cannot be written to; choose another -o", REFUSED)
        if self._is_chosen or self._overwrite:
            return
        for number in range(pictures):
            refuse_taken(self._given(number))


def refuse_taken(path: Path) -> None:
    """Raises CommandError for a file that is there, a folder that is not, and a name that no disk takes."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise CommandError(f"{path.name[:40]}… is too long for a file name; choose another -o", REFUSED)
    if os.path.lexists(path):
        raise CommandError(f"{path} exists; choose another -o, or --overwrite", REFUSED)
    if not path.absolute().parent.is_dir():
        raise CommandError(f"the folder {path.parent} does not exist; create it, or choose another -o", REFUSED)


def words(prompt: str) -> str:
    """The first words of a prompt, as part of a file name."""
    slug = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return slug[:LONGEST_WORDS].rstrip("-") or "picture"


def _steps_aside(path: Path) -> Iterator[Path]:
    """The name, then the name with 2, 3, …"""
    yield path
    for number in count(2):
        yield path.with_stem(f"{path.stem}-{number}")


def _format_of(name: str) -> str:
    try:
        return FORMATS[Path(name).suffix.lower()]
    except KeyError:
        message = f"{name} must end in {', '.join(FORMATS)}, or be a folder: one that exists, or a name ending in /"
        raise CommandError(message, REFUSED) from None


def _refuse_unmakeable(folder: Path) -> None:
    """Raises CommandError for a folder that could not be made. It is made with the first picture that is written: a
    request that is refused leaves none behind."""
    above = folder.absolute().parent
    reason: str | None
    try:
        folder.lstat()
        reason = os.strerror(errno.EEXIST)
    except FileNotFoundError as error:
        if above.is_dir() and os.access(above, os.W_OK):
            return
        reason = os.strerror(errno.EACCES) if above.is_dir() else error.strerror
    except OSError as error:
        reason = error.strerror
    raise CommandError(f"the folder {folder} cannot be made: {reason}; choose another -o", REFUSED)
