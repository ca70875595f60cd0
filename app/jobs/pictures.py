"""Opens the picture store that the settings name: the same for the gateway and for webhook delivery."""

from __future__ import annotations

import secrets

import structlog

from app.pictures.links import SHORTEST_KEY
from app.pictures.store import PictureStore
from app.settings import Settings

log = structlog.get_logger()


def open_pictures(settings: Settings) -> PictureStore:
    """The picture store. Without a signing key, links made here work at this process only, until it ends.

    Raises ValueError, OSError or PictureStoreError for storage that cannot work.
    """
    given = settings.signing_key
    key = secrets.token_bytes(SHORTEST_KEY) if given is None else given.get_secret_value().encode()
    pictures = PictureStore.from_url(
        settings.storage_url,
        signing_key=key,
        accepted=settings.accepted_signing_keys(),
        options=settings.store_options(),
        public_endpoint=settings.storage_public_endpoint,
        longest_link=settings.picture_url_seconds,
    )
    if given is None and not pictures.can_sign:
        log.warning("no signing key: picture links end with this process; set DARKROOM_SIGNING_KEY")
    return pictures
