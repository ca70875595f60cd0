"""A child of `darkroom up` ends when its parent does, also when the parent was killed without a word.

The parent holds the writing end of a pipe and never writes; the kernel closes it with the parent.
"""

from __future__ import annotations

import os
import signal
import threading

PARENT_PIPE = "DARKROOM_LIFELINE_FD"
"""Environment variable with the number of the reading end."""


def end_with_parent() -> None:
    """If this process was given such a pipe, send it SIGTERM when the other end is closed."""
    number = os.environ.pop(PARENT_PIPE, None)
    if number is not None:
        threading.Thread(target=_wait_for_the_end, args=[int(number)], name="parent watch", daemon=True).start()


def _wait_for_the_end(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
