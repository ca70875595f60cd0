"""A child of `darkroom up` ends when its parent does, also when the parent was killed without a word.

The parent holds the writing end of a pipe and never writes; the kernel closes it with the parent.
"""

from __future__ import annotations

import os
import signal
import threading

LIFELINE = "DARKROOM_LIFELINE_FD"
"""Environment variable with the number of the reading end."""


def end_with_parent() -> None:
    """If this process was given a lifeline, send it SIGTERM when the line is cut."""
    number = os.environ.pop(LIFELINE, None)
    if number is not None:
        threading.Thread(target=_wait_for_the_end, args=[int(number)], name="lifeline", daemon=True).start()


def _wait_for_the_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
