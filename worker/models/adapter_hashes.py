"""The sha256 of each file that requests may name, on the model's card: by it, who wants a picture drawn again can see
beforehand that a file is another by now.

Reads whole folders, which takes minutes on a slow disk: not for whoever waits for the worker to be ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from app.contract.messages.card import Adapter, ModelCard
from worker.models.hashes import sha256_of

log = structlog.get_logger()


def with_hashes(card: ModelCard, *, controls: Mapping[str, Path], loras: Mapping[str, Path]) -> ModelCard:
    """The card with the hash of each ControlNet and LoRA whose file can be read."""
    return card.model_copy(update={"controls": _hashed(card.controls, controls), "loras": _hashed(card.loras, loras)})


def _hashed(adapters: tuple[Adapter, ...], files: Mapping[str, Path]) -> tuple[Adapter, ...]:
    return tuple(each.model_copy(update={"sha256": _hash(files[each.name])}) for each in adapters)


def _hash(file: Path) -> str | None:
    try:
        return sha256_of(file)
    except OSError as error:
        log.warning("an adapter cannot be read any more", file=file.name, reason=error.strerror)
        return None
