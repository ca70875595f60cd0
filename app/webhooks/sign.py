"""Standard Webhooks: the id, the time and the signatures of one message. Knows no network and no Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook as Signer


def message_id(entry: str) -> str:
    """The same for every try of one fact, so that a receiver recognises what it has seen. `entry` is the outbox's."""
    return f"msg_{hashlib.sha256(entry.encode()).hexdigest()[:32]}"


def signed_headers(entry: str, body: str, secrets: Sequence[str], *, at: datetime) -> dict[str, str]:
    """The three headers. One signature per secret, newest first: a receiver may hold either during a rotation.

    `at` must be aware and in UTC: the package signs the wall-clock digits of any other zone. ValueError otherwise.
    """
    offset = at.utcoffset()
    if offset is None or offset:
        raise ValueError("the moment of a signature must be in UTC")
    name = message_id(entry)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(name, at, body) for secret in secrets),
    }
