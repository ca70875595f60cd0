"""The image embedding that a picture was drawn from, as a file, and how near it is to the texts it was asked for by.

Knows vectors by the names that a pass gives them. Refuses to know how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from worker.families.points import EMBEDDING

SUFFIX = "_embedding"
"""Of every vector's name; before it stands what it is of."""


def vectors_file(found: Mapping[str, np.ndarray]) -> bytes:
    """Float32 vectors [n] by their names, as safetensors."""
    data: bytes = save({name: np.ascontiguousarray(vector, np.float32) for name, vector in found.items()})
    return data


def cosines(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of the image embedding to each of the others, by what that is of."""
    own = found[EMBEDDING]
    return {name.removesuffix(SUFFIX): _cosine(own, each) for name, each in found.items() if name != EMBEDDING}


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    together = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / together, 6) if together else 0.0
