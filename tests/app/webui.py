"""What tests of the web UI's API share: the public client, and pictures as a worker writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import webuiapi

from app.contract.redis.ownership import Claim
from tests.app.conftest import Running, ScriptedWorker
from tests.waiting import until
from worker.images import encode

TITLE = "starter [0000000000]"


def drawn(claim: Claim) -> bytes:
    """A picture of the size that was asked for, with the notes that a worker writes."""
    spec = claim.spec
    record = spec.model_dump(mode="json") | {"model_hash": "0" * 64}
    pixels = np.zeros((spec.height, spec.width, 3), np.uint8)
    return encode(pixels, output_format=spec.output_format, record=record)


def draw(worker: ScriptedWorker, **options: Any) -> Claim:
    """The next job's pictures, which are all the same."""
    claim = worker.claim()
    worker.succeed(claim, data=drawn(claim), **options)
    return claim


@contextmanager
def public(running: Running, **options: Any) -> Iterator[webuiapi.WebUIApi]:
    """The client as its documentation sets it up."""
    client = webuiapi.WebUIApi(port=running.port, **options)
    yield client
    client.session.close()


def basic(key: str, user: str = "anybody") -> dict[str, str]:
    """The header that programs send which have a user and a password."""
    return {"Authorization": httpx2.BasicAuth(user, key)._auth_header}


def until_waiting(running: Running, callers: int = 1) -> None:
    """Until so many requests wait for their pictures."""
    until(lambda: running.app.state.services.feed.listeners >= callers)
