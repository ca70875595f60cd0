"""Snapshots of running jobs beside their records: what a worker keeps, for whoever claims the job after it is gone.

Knows keys and sizes. Refuses to know what is in a snapshot, and how one in the object store is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis.client import NEVER_DECODE

from app.contract.redis import keys
from app.contract.redis.ownership import Claim
from app.contract.redis.scripts import source


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """One that was kept. `step`: evaluations that every picture of the job had behind it; `reached`: how far the job
    was known to have come when it was queued again. Its bytes are `data` or the `object` of that key, and have that
    hash."""

    step: int
    sha256: str
    reached: int = 0
    data: bytes | None = None
    object: str | None = None

    @classmethod
    def of(cls, step: int, data: bytes, *, key: str | None = None) -> KeptSnapshot:
        """Under the `key` in the object store, or beside the record where there is none."""
        own = None if key else data
        return cls(step, hashlib.sha256(data).hexdigest(), data=own, object=key)

    def is_whole(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.sha256


class SnapshotRecords:
    """Each method raises redis.RedisError while Redis is away, and may then be called again."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis: Any = client
        self._keep = client.register_script(source("snapshot"))

    def announce(self, claim: Claim) -> bool:
        """An object of the attempt is about to be stored, and removed in time. False if the job is no longer ours."""
        return bool(self._keep(args=[claim.id, claim.token, "", "", "coming", ""]))

    def keep(self, claim: Claim, kept: KeptSnapshot) -> bool:
        """In the place of the one before. False if the job is no longer ours."""
        where = ["object", kept.object] if kept.object is not None else ["data", kept.data]
        return bool(self._keep(args=[claim.id, claim.token, kept.step, kept.sha256, *where]))

    def find(self, claim: Claim) -> KeptSnapshot | None:
        """The newest one of earlier attempts."""
        # Its bytes are no text: read as they are, whatever the client does with others.
        found = self._redis.execute_command("HGETALL", keys.SNAPSHOT + claim.id, **{NEVER_DECODE: True})
        return _read(found) if found else None


def _read(found: Mapping[bytes, bytes]) -> KeptSnapshot:
    key = found.get(b"object")
    return KeptSnapshot(
        step=int(found[b"step"]),
        sha256=found[b"sha256"].decode(),
        reached=int(found.get(b"reached", 0)),
        data=found.get(b"data"),
        object=None if key is None else key.decode(),
    )
