"""What the engine has drawn becomes stored pictures: a file for each image, and a sheet of the previews that are kept.

Knows files, the store, and what a picture says of itself. Refuses to know Redis: whom to tell is the reporter's affair.
"""

from __future__ import annotations

from contextlib import suppress

import structlog

from app.contract.messages.job import Picture, Sheet
from app.contract.messages.spec import recorded
from app.contract.objects.names import image_key, sheet_key, token_prefix
from app.contract.redis.ownership import Claim
from worker.attempts import Attempt
from worker.engine.events import DrawnImage, Finished
from worker.errors import StorageError
from worker.images import encode, encode_sheet
from worker.preview_history import PreviewHistory
from worker.provenance import Provenance
from worker.storage import ObjectStore

log = structlog.get_logger()


class Finisher:
    """Blocks for as long as it takes, in any thread; gives up only when its attempt is stopped."""

    def __init__(self, store: ObjectStore, provenance: Provenance, history: PreviewHistory) -> None:
        self._store = store
        self._provenance = provenance
        self._history = history

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
        note = self._provenance.note(reproducible=claim.spec.reproducible)
        if image.is_rescued:
            note |= {"dtype": "float32", "rescued": True}
        if image.nsfw is not None:
            note |= {"nsfw": image.nsfw}
        of_job = {"job_id": claim.id, "index": index, "solver": finished.solver}
        record = recorded(claim.spec, seed=seed, index=index) | of_job | note | dict(finished.drawn_with)
        key = image_key(claim.id, claim.token, index, claim.spec.output_format)
        data = encode(pixels, output_format=claim.spec.output_format, quality=claim.spec.output_quality, record=record)
        stored = self._store.put(
            key, data, f"image/{claim.spec.output_format}", keep_trying=lambda: attempt.stop is None
        )
        return Picture(
            index=index, key=key, sha256=stored.sha256, seed=seed, bytes=stored.bytes,
            width=pixels.shape[1], height=pixels.shape[0], content_type=stored.content_type,
            previews=self._store_sheet(attempt, index), nsfw=image.nsfw,
        )  # fmt: skip

    def _store_sheet(self, attempt: Attempt, index: int) -> Sheet | None:
        claim = attempt.claim
        frames = self._history.of(claim.token, index)
        if not frames:
            return None
        try:
            file = encode_sheet([frame.pixels for frame in frames])
        except Exception:
            # The picture is finished, and worth more than how it came to be.
            log.exception("the previews of a picture were dropped", job_id=claim.id)
            return None
        key = sheet_key(claim.id, claim.token, index)
        stored = self._store.put(key, file.data, "image/jpeg", keep_trying=lambda: attempt.stop is None)
        return Sheet(
            key=key, sha256=stored.sha256, bytes=stored.bytes, content_type=stored.content_type, columns=file.columns,
            width=file.width, height=file.height, steps=tuple(frame.step for frame in frames),
        )  # fmt: skip
