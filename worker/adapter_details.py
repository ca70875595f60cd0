"""What is found out about a model's adapters while the worker draws already, and announced then: thumbnails first, then
the hash of each file, which takes minutes.

Knows in which order. Refuses to know what a thumbnail or a hash is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from app.contract.messages.card import ModelCard
from worker.errors import StorageError
from worker.models.adapter_hashes import with_hashes
from worker.models.bundle import Bundle
from worker.models.thumbnails import with_thumbnails
from worker.storage import ObjectStore

log = structlog.get_logger()

THUMBNAIL_SECONDS = 10.0
"""For each, while the store is away: the next start tries again."""

Announce = Callable[[ModelCard], None]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Where the weights of a model's adapters lie, by the names that requests have for them. Nothing here keeps the
    model in memory."""

    controls: Mapping[str, Path]
    loras: Mapping[str, Path]

    @classmethod
    def of(cls, bundle: Bundle) -> AdapterFiles:
        controls = {name: file.weights for name, file in bundle.controlnets.files.items()}
        return cls(controls, {name: file.path for name, file in bundle.loras.items()})

    def look_up(self, card: ModelCard, store: ObjectStore, announce: Announce) -> None:
        """Announce the card anew whenever there is more on it."""
        card = with_thumbnails(card, self.loras, partial(_kept, store))
        announce(card)
        announce(with_hashes(card, controls=self.controls, loras=self.loras))


def _kept(store: ObjectStore, thumbnail: bytes) -> str | None:
    try:
        return store.put_thumbnail(thumbnail, deadline=THUMBNAIL_SECONDS)
    except StorageError as error:
        log.warning("a thumbnail is not kept", reason=str(error))
        return None
