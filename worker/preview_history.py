"""The previews of jobs that keep them, held until the pictures are stored.

Knows which previews a film is made of. Refuses to know files: worker/images.py makes one of a film.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from worker.engine.events import Preview

FRAMES = 64
"""Of one picture at most. With 50 steps each can be kept; of more, every second or third is: nobody looks at more."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A preview: uint8 [height, width, 3] after `step` model evaluations."""

    step: int
    pixels: npt.NDArray[np.uint8]


def kept_of(steps: int, *, every: int) -> int:
    """Every how-manieth preview is kept, of those that are made after `every` of `steps` evaluations; 1 keeps all."""
    return max(1, ceil((steps - 1) // every / FRAMES))


class PreviewHistory:
    """Frames by attempt and picture. Every method is atomic; `keep` is called from the engine's thread and is short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._history: dict[str, dict[int, list[Frame]]] = {}

    def keep(self, preview: Preview, *, every: int) -> None:
        """Add a preview that is made after `every` evaluations, if it is one of the FRAMES that are spread evenly."""
        if (preview.step // every) % kept_of(preview.steps, every=every):
            return
        # A copy: the array may be a part of one that all pictures of a step share.
        frame = Frame(preview.step, preview.picture.copy())
        with self._lock:
            self._history.setdefault(preview.request_id, {}).setdefault(preview.index, []).append(frame)

    def of(self, request_id: str, index: int) -> list[Frame]:
        """The frames of a picture, in order."""
        with self._lock:
            return list(self._history.get(request_id, {}).get(index, ()))

    def drop(self, request_id: str) -> None:
        """The attempt is over."""
        with self._lock:
            self._history.pop(request_id, None)
