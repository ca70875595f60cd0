"""From an object key to something a browser can fetch: a short-lived URL, or a stream of bytes.

A bucket signs its own URLs; for a folder the gateway signs a path of its own and streams. Refuses to know who may see
a picture: that is decided before a link is made, and a link is proof enough afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import obstore
from anyio import to_thread
from obstore.exceptions import BaseError

from app.contract.objects.folder import Folder
from app.contract.objects.names import (
    CELL_MARK,
    CELL_WORD,
    parse_key,
    require_input,
    require_prefix,
    snapshots_prefix,
    thumbnail_key,
)
from app.contract.objects.store import Bucket, StoreOptions, open_store, probe, sweep_probes
from app.contract.objects.thumbnails import sweep_thumbnails
from app.pictures.errors import PictureMissing, StoreUnavailable, translated
from app.pictures.links import LONGEST_LINK, LinkSigner
from app.pictures.stream import Label, PictureStream, open_file, open_object

T = TypeVar("T")


class PictureStore:
    """The gateway's side of the store. Made once, shared by all requests."""

    def __init__(
        self,
        place: Folder | Bucket,
        *,
        signing_key: bytes,
        accepted: Sequence[bytes] = (),
        signer: Bucket | None = None,
        longest_link: int = LONGEST_LINK,
    ) -> None:
        self.place = place
        self.links = LinkSigner(signing_key, accepted=accepted, longest_link=longest_link)
        self._signer = signer or (place if isinstance(place, Bucket) and place.can_sign else None)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        signing_key: bytes,
        accepted: Sequence[bytes] = (),
        options: StoreOptions | None = None,
        public_endpoint: str | None = None,
        longest_link: int = LONGEST_LINK,
    ) -> PictureStore:
        """Opens what `open_store` opens. Links are signed with `signing_key`; those of `accepted` keys open too.

        `public_endpoint` is the bucket's address as browsers see it, where that differs from the one the gateway uses:
        the host is part of a presigned URL's signature.
        Raises ValueError for a setting that cannot work, StoreDenied and its kind for a folder that cannot be made.
        """
        options = options or StoreOptions()
        try:
            place = open_store(url, options)
        except OSError as error:
            raise translated(error, url) from error
        signer = None
        if public_endpoint is not None:
            if not place.can_sign:
                raise ValueError("a public endpoint needs a bucket (s3://) to sign for")
            opened = open_store(url, replace(options, endpoint=public_endpoint))
            signer = opened if isinstance(opened, Bucket) else None
        return cls(place, signing_key=signing_key, accepted=accepted, signer=signer, longest_link=longest_link)

    @property
    def can_sign(self) -> bool:
        """Whether the store itself serves signed URLs. If not, links lead to this gateway."""
        return self._signer is not None

    async def link(self, key: str, *, expires_in: int, now: float) -> str:
        """The URL to give out: the bucket's own where it signs, otherwise this gateway's signed path.

        `expires_in` is 1 to `longest_link` seconds, `now` seconds since 1970. ValueError for a key of no picture.
        """
        if self.can_sign:
            return await self.signed_url(key, expires_in=expires_in)
        return self.links.path(key, expires_in=expires_in, now=now)

    async def signed_url(self, key: str, *, expires_in: int) -> str:
        """A presigned GET. Type and file name of the answer are the stored object's own: obstore cannot add them here.

        Raises StoreUnavailable where the store cannot sign or has no credentials to sign with.
        """
        parse_key(key)
        if self._signer is None:
            raise StoreUnavailable(f"{self.place.label} cannot sign URLs: give out signed paths of the gateway")
        lifetime = timedelta(seconds=self.links.lifetime(expires_in))
        try:
            url: str = await obstore.sign_async(self._signer.store, "GET", key, lifetime)  # type: ignore[call-overload]
            return url
        except (OSError, BaseError) as error:
            raise translated(error, self.place.label) from error

    async def open(self, key: str, *, byte_range: str | None = None) -> PictureStream:
        """Opens a picture, or the part that a Range header asks for.

        As RFC 9110 has it, a Range that is malformed or names several parts is ignored, and the whole comes. Raises
        PictureMissing, RangeNotSatisfiable, StoreUnavailable and its kind.
        """
        try:
            label = Label.of(key)
        except ValueError as error:
            raise PictureMissing("no such picture") from error
        return await self._open(key, byte_range, label)

    async def open_input(self, key: str, label: Label, *, byte_range: str | None = None) -> PictureStream:
        """The same for a picture that came in. No link leads to those. ValueError for any other key."""
        return await self._open(require_input(key), byte_range, label)

    async def open_thumbnail(self, sha256: str, *, byte_range: str | None = None) -> PictureStream:
        """The same for what an adapter does. Raises PictureMissing also for what is no hash."""
        try:
            key = thumbnail_key(sha256)
        except ValueError as error:
            raise PictureMissing("no such picture") from error
        return await self._open(key, byte_range, Label(f"{sha256[:12]}.jpg", "image/jpeg"))

    async def _open(self, key: str, byte_range: str | None, label: Label) -> PictureStream:
        try:
            if isinstance(self.place, Folder):
                return await open_file(self.place, key, byte_range, label)
            return await open_object(self.place, key, byte_range, label)
        except (OSError, BaseError) as error:
            raise translated(error, self.place.label) from error

    def read(self, key: str) -> bytes:
        """A whole picture of a job, in the caller's thread. PictureMissing, StoreUnavailable and its kind."""
        try:
            parse_key(key)
        except ValueError as error:
            raise PictureMissing("no such picture") from error
        return self._read(key)

    def read_input(self, key: str) -> bytes:
        """The same for a picture that came in. ValueError for any other key."""
        return self._read(require_input(key))

    def _read(self, key: str) -> bytes:
        try:
            return self.place.read(key)
        except (OSError, BaseError) as error:
            raise translated(error, self.place.label) from error

    async def put_input(self, key: str, data: bytes, content_type: str) -> None:
        """Stores a picture that came in. Raises StoreUnavailable and its kind; ValueError for any other key."""
        require_input(key)
        await self._in_thread(lambda: self.place.put(key, data, content_type))

    async def delete_input(self, key: str) -> None:
        """Deletes a picture that came in, if it is there. As `put_input`."""
        require_input(key)
        await self._in_thread(lambda: self.place.delete(key))

    async def delete_prefix(self, prefix: str) -> int:
        """Deletes all pictures of a job or of one attempt; returns how many. ValueError for any other prefix."""
        require_prefix(prefix)
        return await self._in_thread(lambda: self.place.delete_prefix(prefix))

    async def delete_snapshots(self, job_id: str, token: str) -> int:
        """Deletes what an attempt could have gone on from; returns how many. ValueError for parts of another form."""
        prefix = snapshots_prefix(job_id, token)
        return await self._in_thread(lambda: self.place.delete_prefix(prefix))

    async def read_mark(self) -> bytes | None:
        """What says whose the store is; None where nothing does. StoreUnavailable and its kind."""
        try:
            return await self._in_thread(lambda: self.place.read(CELL_MARK))
        except PictureMissing:
            return None

    async def read_word(self) -> str | None:
        """What was last left by `leave_word`; None for nothing. As `read_mark`."""
        try:
            found = await self._in_thread(lambda: self.place.read(CELL_WORD))
        except PictureMissing:
            return None
        return found[:64].decode("ascii", "replace")

    async def leave_word(self, word: str) -> None:
        """In the place of the former one. As `read_mark`."""
        await self._in_thread(lambda: self.place.put(CELL_WORD, word.encode(), "text/plain"))

    async def create_mark(self, data: bytes) -> bool:
        """Says whose it is. False, and nothing is changed, where that is said already. As `read_mark`."""
        return await self._in_thread(lambda: self.place.create(CELL_MARK, data, "application/json"))

    async def check(self) -> None:
        """Writes, reads, lists and deletes a probe. StoreUnavailable and its kind, with the remedy in the sentence."""
        await self._in_thread(lambda: probe(self.place))

    async def sweep_probes(self) -> int:
        """Deletes what processes that were killed in `check` left half a day ago; returns how many. As `check`."""
        return await self._in_thread(lambda: sweep_probes(self.place))

    async def sweep_thumbnails(self, named: Collection[str]) -> int:
        """Deletes thumbnails that are old and on no card; returns how many. `named` are the hashes of those on
        cards. As `check`."""
        return await self._in_thread(lambda: sweep_thumbnails(self.place, named))

    async def free_bytes(self) -> int | None:
        """Bytes left for new pictures on the folder's disk; None for a bucket, which does not say."""
        if isinstance(self.place, Bucket):
            return None
        root = self.place.root
        disk = await self._in_thread(lambda: os.statvfs(root))
        return disk.f_bavail * disk.f_frsize

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await to_thread.run_sync(work)
        except (OSError, BaseError) as error:
            raise translated(error, self.place.label) from error
