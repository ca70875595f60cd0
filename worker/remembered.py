"""What an earlier start of a worker found out, in small files: each belongs to the circumstances it was found in.

Knows JSON and one folder. Whatever is wrong with a file, or with the folder, only costs finding out again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

LARGEST_FILE = 1 << 18

T = TypeVar("T")


class Remembered:
    """One thing, `what` it is, under all the `circumstances` that it depends on."""

    def __init__(self, folder: Path | None, what: str, circumstances: Mapping[str, Any]) -> None:
        """`folder` is the user's cache if missing. `circumstances` hold what JSON can, or what repr tells apart."""
        self.folder, self.what = folder or _cache(), what
        # As they will be read: JSON knows no tuples.
        self.circumstances = json.loads(json.dumps(circumstances, default=repr))

    @cached_property
    def file(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.circumstances, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"

    def recall(self, read: Callable[[Any], T]) -> T | None:
        """What `read` makes of the JSON that was kept, or None: then find it out again.

        `read` raises ValueError, KeyError, TypeError or AttributeError for what cannot be.
        """
        try:
            with self.file.open("rb") as opened:
                content = json.loads(opened.read(LARGEST_FILE))
            return read(content[self.what]) if content["circumstances"] == self.circumstances else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "what was remembered cannot be read and is found out again",
                what=self.what, file=str(self.file), reason=repr(error)[:200],
            )  # fmt: skip
            return None

    def keep(self, content: Any) -> None:
        """Write it in one piece: another worker of this model may start at the same time."""
        text = json.dumps({"circumstances": self.circumstances, self.what: content})
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        try:
            if len(text) > LARGEST_FILE:
                raise OSError(f"{len(text)} bytes are more than {LARGEST_FILE}")
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.file)
        except OSError as error:
            log.warning(
                "this cannot be kept; every start will find it out",
                what=self.what, folder=str(self.folder), reason=str(error),
            )  # fmt: skip


def _cache() -> Path:
    """As the XDG Base Directory Specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom" / "profiles"
