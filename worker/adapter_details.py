"""What is found out about a model's adapters while the worker draws already, and announced then: thumbnails first, then
the hash of each file, which takes minutes.

Knows in which order. Refuses to know what a thumbnail or a hash is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
LookUp = Callable[[ObjectStore, Announce], None]


def look_up(card: ModelCard, bundle: Bundle, store: ObjectStore, announce: Announce) -> None:
    """Announce the card anew whenever there is more on it."""
    card = with_thumbnails(card, bundle, partial(_kept, store))
    announce(card)
    announce(with_hashes(card, bundle))


def _kept(store: ObjectStore, thumbnail: bytes) -> str | None:
    try:
        return store.put_thumbnail(thumbnail, deadline=THUMBNAIL_SECONDS)
    except StorageError as error:
        log.warning("a thumbnail is not kept", reason=str(error))
        return None
