"""What the engine has drawn becomes stored pictures: a file for each image, and beside it those of the previews and the
trajectory that are kept.

Knows files, the store, and what a picture says of itself. Refuses to know Redis: whom to tell is the reporter's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from app.contract.messages.job import KeptEmbedding, KeptTrajectory, Picture, Sheet, StoredFile
from app.contract.messages.kept_spec import recorded
from app.contract.messages.spec import place_of
from app.contract.messages.unclip import kind_of
from app.contract.objects.names import (
    embedding_key,
    image_key,
    parse_key,
    sheet_key,
    token_prefix,
    trajectory_key,
)
from app.contract.redis.ownership import Claim
from worker.attempts import Attempt
from worker.embedding import cosines, vectors_file
from worker.engine.events import DrawnImage, Finished
from worker.errors import StorageError
from worker.families.points import EMBEDDING
from worker.images import encode, encode_sheet
from worker.provenance import Provenance
from worker.storage import ObjectStore, Stored
from worker.trajectory import Drawn, files_of

log = structlog.get_logger()

Made = TypeVar("Made")


class Finisher:
    """Blocks for as long as it takes, in any thread; gives up only when its attempt is stopped.

    `provenance` is of the pictures of each model, by its name.
    """

    def __init__(self, store: ObjectStore, provenance: Mapping[str, Provenance]) -> None:
        self._store = store
        self._provenance = provenance

    def store(self, attempt: Attempt, finished: Finished) -> list[Picture]:
        """All pictures of the attempt, in their order. Raises StorageError, StorageDenied and Abandoned."""
        return [self._store_picture(attempt, finished, image) for image in finished.images]

    def take_away(self, claim: Claim) -> bool:
        """Another attempt owns the job: nobody will ever point to what this one stored. Always False."""
        with suppress(StorageError):
            self._store.delete_prefix(token_prefix(claim.id, claim.token))
        return False

    def _store_picture(self, attempt: Attempt, finished: Finished, image: DrawnImage) -> Picture:
        claim, pixels, seed, index = attempt.claim, image.pixels, image.seed, image.index
        note: dict[str, Any] = {**self._provenance[claim.spec.model].note(reproducible=claim.spec.reproducible)}
        if image.is_rescued:
            note |= {"dtype": "float32", "rescued": True}
            # A rescue is drawn by the network as it is.
            note.pop("compiled", None)
        if image.nsfw is not None:
            note |= {"nsfw": image.nsfw}
        if image.score is not None:
            note |= {"score": image.score, "scorer": finished.judged_by["scorer"]}
        if attempt.resumed_at_step:
            note |= {"resumed_at_step": attempt.resumed_at_step}
        of_job = {"job_id": claim.id, "index": index, "solver": finished.solver}
        record = recorded(claim.spec, seed=seed, index=index) | of_job | note | dict(finished.drawn_with)
        key = image_key(claim.id, claim.token, index, claim.spec.output_format)
        data = encode(pixels, output_format=claim.spec.output_format, quality=claim.spec.output_quality, record=record)
        stored = self._put(attempt, key, data)
        return Picture(
            index=index, key=key, sha256=stored.sha256, seed=seed, bytes=stored.bytes,
            width=pixels.shape[1], height=pixels.shape[0], content_type=stored.content_type,
            previews=self._store_sheet(attempt, image), trajectory=self._store_trajectory(attempt, image),
            at=place_of(claim.spec, index), embedding=self._store_embedding(attempt, image), nsfw=image.nsfw,
            score=image.score, probability=image.probability,
        )  # fmt: skip

    def _store_sheet(self, attempt: Attempt, image: DrawnImage) -> Sheet | None:
        claim, kept = attempt.claim, image.recordings.previews
        if kept is None:
            return None
        frames = [(kept.moments[place].step, kept.pixels("estimate", place)) for place in kept.whole]
        shown = {step: pixels for step, pixels in frames if pixels is not None}
        file = _made(lambda: encode_sheet(list(shown.values())), claim) if shown else None
        if file is None:
            return None
        stored = self._put(attempt, sheet_key(claim.id, claim.token, image.index), file.data)
        return Sheet(
            key=stored.key, sha256=stored.sha256, bytes=stored.bytes, content_type=stored.content_type,
            columns=file.columns, width=file.width, height=file.height, steps=tuple(shown),
        )  # fmt: skip

    def _store_trajectory(self, attempt: Attempt, image: DrawnImage) -> KeptTrajectory | None:
        claim, kept, asked = attempt.claim, image.recordings.trajectory, attempt.claim.spec.trajectory
        if kept is None or asked is None or not kept.whole:
            return None
        said = {"object": "trajectory", "job_id": claim.id, "index": image.index, "seed": image.seed}
        drawn = Drawn(image.pixels, said | {"scheduler": claim.spec.scheduler})
        files = _made(lambda: files_of(kept, drawn, every=asked.every, decode=asked.decode), claim)
        if files is None:
            return None
        stored = {}
        for extension, data in files.items():
            key = trajectory_key(claim.id, claim.token, image.index, extension)
            put = self._put(attempt, key, data)
            stored[extension] = StoredFile(key=key, sha256=put.sha256, bytes=put.bytes, content_type=put.content_type)
        return KeptTrajectory(steps=len(kept.whole), files=stored)

    def _store_embedding(self, attempt: Attempt, image: DrawnImage) -> KeptEmbedding | None:
        if EMBEDDING not in image.found:
            return None
        claim = attempt.claim
        key, data = embedding_key(claim.id, claim.token, image.index), vectors_file(image.found)
        put = self._put(attempt, key, data)
        file = StoredFile(key=key, sha256=put.sha256, bytes=put.bytes, content_type=put.content_type)
        return KeptEmbedding(kind=kind_of(claim.spec.image_embedding), cosine_to=cosines(image.found), file=file)

    def _put(self, attempt: Attempt, key: str, data: bytes) -> Stored:
        return self._store.put(key, data, parse_key(key).content_type, keep_trying=lambda: attempt.stop is None)


def _made(make: Callable[[], Made], claim: Claim) -> Made | None:
    """A file of what was kept on the way; None if it cannot be made. The picture is finished, and worth more than how
    it came to be."""
    try:
        return make()
    except Exception:
        log.exception("what was kept of a picture's steps was dropped", job_id=claim.id)
        return None
