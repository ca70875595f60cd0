"""Thumbnails of adapters in the store: written once, and removed when no model has had them on its card for a month.

Knows their keys and ages. Refuses to know models and adapters. Raises whatever the store raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from app.contract.objects.folder import Folder
from app.contract.objects.names import THUMBNAILS, thumbnail_key
from app.contract.objects.store import Bucket

KEPT_SECONDS = 30 * 86_400.0
"""Without a card that names it. Long, since a few kilobytes cost nothing, and others may use the same store."""

FRESH_SECONDS = KEPT_SECONDS / 2
"""A younger one is not written again. So none goes between a start that finds it and the card that names it."""


def put_thumbnail(store: Folder | Bucket, sha256: str, data: bytes, *, clock: Callable[[], float] = time.time) -> bool:
    """Writes a JPEG under what it hashes to, unless that was done lately. Whether it was written."""
    key = thumbnail_key(sha256)
    written = store.written_at(key)
    if written is not None and clock() - written < FRESH_SECONDS:
        return False
    store.put(key, data, "image/jpeg")
    return True


def sweep_thumbnails(store: Folder | Bucket, named: Collection[str], *, clock: Callable[[], float] = time.time) -> int:
    """Deletes those that none of the hashes in `named` names and that are old enough; returns how many."""
    wanted, before = {thumbnail_key(sha256) for sha256 in named}, clock() - KEPT_SECONDS
    gone = [key for key, written in store.modified(THUMBNAILS).items() if key not in wanted and written < before]
    for key in gone:
        store.delete(key)
    return len(gone)
