"""Where compiled code is kept for the next start: beside the profiles, in a folder that nobody else can write to.

What lies there is loaded and run. torch's own choice is a folder of /tmp whose name anybody can guess.
"""

from __future__ import annotations

import os
from pathlib import Path

from worker.models.errors import ModelError

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""torch reads it whenever it compiles. Who has set it has chosen a folder, and is let alone."""


def keep_compiled(profiles: Path) -> None:
    """Have torch keep what it compiles beside the profiles. Raises ModelError where that would not be safe, or cannot
    be."""
    if os.environ.get(VARIABLE):
        return
    folder = profiles / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise ModelError(
                f"DARKROOM_COMPILE: {folder} is not this user's own, and what lies there is run; remove it."
            )
        folder.chmod(0o700)
    except OSError as error:
        raise ModelError(f"DARKROOM_COMPILE: compiled code cannot be kept in {folder}: {error.strerror}.") from error
    os.environ[VARIABLE] = str(folder)
