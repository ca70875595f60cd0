"""What the commands that work on one data folder leave in it for each other: where its service keeps things, and that a
restore is not finished.

Knows names of files. Refuses to know how a service is started, copied or restored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from app.cli.private import write_whole
from app.settings import Settings

Place = Literal["own", "elsewhere"]

PLACES = "places.json"

RESTORING = ".restoring-"
"""What the name of the folder begins with in which a restore puts its files together. Its last act is to remove it."""


class Places(BaseModel):
    """Whether jobs and pictures lie in the data folder. No addresses: they may hold passwords."""

    jobs: Place
    pictures: Place

    @classmethod
    def of(cls, settings: Settings, data: Path) -> Places:
        """Where a service of these settings keeps them."""
        given = settings.model_fields_set
        elsewhere = "storage_url" in given and settings.storage_url != (data / "pictures").as_uri()
        return cls(
            jobs="elsewhere" if "redis_url" in given else "own",
            pictures="elsewhere" if elsewhere else "own",
        )

    @classmethod
    def noted(cls, data: Path) -> Places | None:
        """What the last start has noted. None if it was one of before there were such notes, or the note is none.

        Raises OSError if it cannot be read.
        """
        try:
            return cls.model_validate_json((data / PLACES).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def note(self, data: Path) -> None:
        """For whoever comes without the environment of the service. Raises OSError."""
        # A disk that is full does not end a service that was there before.
        if self != self.noted(data):
            write_whole(data / PLACES, self.model_dump_json() + "\n")


def is_half_restored(data: Path) -> bool:
    """Whether a restore is under way in this folder, or was cut off. Whoever has its lock knows that it was."""
    return any(data.glob(f"{RESTORING}*"))
