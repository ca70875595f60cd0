"""The one error of this room."""

from __future__ import annotations


class ModelError(Exception):
    """A model folder cannot be served. The message is one sentence for the operator and names the remedy."""
