"""The one error of this package."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be served. Each of `faults` is one sentence for the operator that names the remedy."""

    def __init__(self, *faults: str) -> None:
        super().__init__(" ".join(faults))
        self.faults = faults
