"""Which pictures a request means: by id, by hash, by the job that drew them, as base64 or by a link. All become inputs.

Knows the ways to name a picture. Refuses to know what a model does with one; that others' pictures are not there for a
caller is the stores' to say.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from app.contract.messages.input_id import input_id
from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.job import Picture, Record
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.objects.names import input_key
from app.contract.redis.inputs import StoredInput
from app.contract.redis.store import JobStore
from app.edge.bodies import Body
from app.edge.cells import Cells
from app.edge.errors import InputNotFound
from app.jobs.inputs import Inputs
from app.outbound.fetch import NotFetched
from app.pictures.clean_picture import UnfitPicture
from app.pictures.cleaners import Clean, cleaned
from app.pictures.errors import PictureMissing
from app.pictures.store import PictureStore

FETCHED_AT_ONCE: Final = 8
"""By one process, from the link to the cleaned picture: each is up to `most_bytes` in memory."""

PIECE: Final = 128 * 1024
"""Characters of base64 that are decoded at once. A multiple of four."""

_DATA_URL: Final = re.compile(rb"data:[A-Za-z0-9.+/-]*(;[A-Za-z0-9=.+-]+)*;base64,", re.IGNORECASE)


class Fetch(Protocol):
    """Fetches pictures from elsewhere. Raises NotFetched."""

    async def get(self, url: str, *, most_bytes: int) -> bytes:
        """The file behind a link."""


class References:
    """Raises redis.RedisError and PictureStoreError while one of the two is away. Without `fetch` links are refused."""

    def __init__(
        self, inputs: Inputs, jobs: JobStore, pictures: PictureStore, *, fetch: Fetch | None, cells: Cells
    ) -> None:
        self._inputs = inputs
        self._jobs = jobs
        self._pictures = pictures
        self._fetch = fetch
        self._cells = cells
        self._fetching = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def find(
        self, references: Iterable[tuple[str, ImageReference]], tenant: str, body: Body | None
    ) -> dict[str, InputPicture]:
        """What each reference of a request means, by its JSON pointer; `body` has the strings taken out of it.

        One after the other: a request takes one turn among those that clean pictures. Raises ParamsRejected.
        """
        found: dict[str, InputPicture] = {}
        errors: list[ParamError] = []
        for pointer, reference in references:
            try:
                stored = await self._stored(reference, tenant, body)
                found[pointer] = InputPicture.model_validate(stored.model_dump())
            except _Unusable as unusable:
                errors.append(ParamError(f"{pointer}{unusable.below}", unusable.code, unusable.detail))
        if errors:
            raise ParamsRejected(errors)
        return found

    async def keep(
        self, reference: ImageReference, pointer: str, tenant: str, body: Body | None, clean: Clean
    ) -> StoredInput:
        """The one that is meant, an input's or one that comes along, as `clean` reads it: as `Inputs.add`. `pointer` is
        where it is named.

        Raises ParamsRejected.
        """
        try:
            stored = await self._stored(reference, tenant, body, clean)
            if reference.input is None:
                return stored
            key = input_key(tenant, stored.sha256)
            return await self._added(lambda: self._pictures.read_input(key), tenant, "/input", clean)
        except _Unusable as unusable:
            raise ParamsRejected([ParamError(f"{pointer}{unusable.below}", unusable.code, unusable.detail)]) from None

    async def _stored(
        self, reference: ImageReference, tenant: str, body: Body | None, clean: Clean = cleaned
    ) -> StoredInput:
        """`clean` is for one that is no input yet."""
        if reference.input is not None:
            return await self._own(reference.input, tenant, "/input")
        if reference.sha256 is not None:
            return await self._own(input_id(tenant, reference.sha256), tenant, "/sha256")
        if reference.job is not None:
            return await self._drawn(reference.job, reference.index, tenant, clean)
        if reference.url is not None:
            return await self._fetched(reference.url, tenant, clean)
        text, most = reference.b64 or "", self._inputs.most_bytes
        return await self._added(lambda: decoded(text, body, most_bytes=most), tenant, "/b64", clean)

    async def _own(self, asked: str, tenant: str, below: str) -> StoredInput:
        try:
            return await self._inputs.get(asked, tenant)
        except InputNotFound:
            self._refuse_elsewhere(asked, below)
            detail = "is no picture that you sent in, or is not kept any more: send it again"
            raise _Unusable(below, "input_not_found", detail) from None

    async def _drawn(self, job_id: str, index: int | None, tenant: str, clean: Clean) -> StoredInput:
        record = await self._jobs.get(job_id, tenant)
        if record is None:
            self._refuse_elsewhere(job_id, "/job")
            raise _Unusable("/job", "job_not_found", "is no job of yours, or is not kept any more")
        picture = _picture_of(record, index)
        return await self._added(lambda: self._pictures.read(picture.key), tenant, "/job", clean)

    def _refuse_elsewhere(self, asked: str, below: str) -> None:
        """A request is answered where it is sent, and another cell is not asked for pictures."""
        if why := self._cells.why_not_here(asked):
            raise _Unusable(below, "other_cell", f"is not here: {why[0].lower()}{why[1:]} Send the picture itself")

    async def _fetched(self, url: str, tenant: str, clean: Clean) -> StoredInput:
        if self._fetch is None:
            detail = "is not fetched by this service: send the picture to POST /v1/inputs, or as b64"
            raise _Unusable("/url", "not_fetched", detail)
        async with self._fetching:
            try:
                data = await self._fetch.get(url, most_bytes=self._inputs.most_bytes)
            except NotFetched as error:
                raise _Unusable("/url", error.code, error.detail) from None
            return await self._added(lambda: data, tenant, "/url", clean)

    async def _added(self, read: Callable[[], bytes], tenant: str, below: str, clean: Clean) -> StoredInput:
        try:
            stored, _ = await self._inputs.add(read, tenant, clean=clean)
        except PictureMissing:
            raise _Unusable(below, "picture_gone", "has lost its picture: it is being deleted") from None
        except UnfitPicture as error:
            raise _Unusable(below, error.code, error.detail) from None
        return stored


def decoded(text: str, body: Body | None, *, most_bytes: int) -> bytes:
    """The file in a string of base64, or in a data: URL, of a request with this body. Slow: not for the event loop.

    Raises UnfitPicture.
    """
    taken_out = body.string(text) if body is not None else None
    given = text.encode("utf-8", "surrogatepass") if taken_out is None else taken_out
    prefix = _DATA_URL.match(given[:256])
    data = _from_base64(memoryview(given)[prefix.end() if prefix else 0 :])
    if len(data) > most_bytes:
        raise UnfitPicture("too_large", f"has more than {most_bytes} bytes")
    return data


def _from_base64(given: memoryview) -> bytes:
    """Raises UnfitPicture. In pieces: one of 32 MiB would keep every other thread waiting while it is decoded."""
    parts = (given[start : start + PIECE] for start in range(0, len(given), PIECE))
    try:
        decoded = [base64.b64decode(part, validate=True) for part in parts]
        # Padding may stand at the end only.
        if any(len(part) < PIECE // 4 * 3 for part in decoded[:-1]):
            raise ValueError
    except (binascii.Error, ValueError):
        detail = "is no base64 (RFC 4648, with padding and without line breaks), nor a data: URL of it"
        raise UnfitPicture("not_base64", detail) from None
    return b"".join(decoded)


class _Unusable(Exception):
    """`below` is what the reference names its picture by, as the end of a JSON pointer."""

    def __init__(self, below: str, code: str, detail: str) -> None:
        super().__init__(code)
        self.below = below
        self.code = code
        self.detail = detail


def _picture_of(record: Record, index: int | None) -> Picture:
    """Without `index` the first that is there: of several the best were kept, and some may not be shown."""
    if not record.status.is_terminal:
        raise _Unusable("/job", "job_not_over", f"is {record.status.value}: wait until it has succeeded")
    if not record.images:
        raise _Unusable("/job", "no_pictures", f"is {record.status.value} and has no pictures")
    if index is None:
        return record.images[0]
    picture = next((each for each in record.images if each.index == index), None)
    if any(each.index == index for each in record.blocked):
        raise _Unusable("/index", "not_shown", "is not shown: the safety checker flagged it")
    if picture is None and record.selection is not None:
        kept = " or ".join(str(each.index) for each in record.images)
        raise _Unusable("/index", "not_kept", f"must be {kept}: the pictures that were kept of those drawn")
    if picture is None:
        last = record.spec.num_images - 1
        raise _Unusable("/index", "no_such_picture", f"must be 0 to {last}: so many pictures it has")
    return picture
