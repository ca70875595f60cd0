"""From an object key to something a browser can fetch: a short-lived URL, or a stream of bytes.

A bucket signs its own URLs; for a folder the gateway signs a path of its own and streams. Refuses to know who may see
a picture: that is decided before a link is made, and a link is proof enough afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import BinaryIO
from urllib.parse import urlencode

import obstore
from anyio import to_thread
from obstore.exceptions import BaseError

from app.contract.objects.faults import Fault, diagnose
from app.contract.objects.store import (
    CONTENT_TYPES,
    Bucket,
    Folder,
    StoreOptions,
    open_store,
    parse_key,
    probe,
    require_prefix,
    sweep_probes,
)

LONGEST_LINK = 3600
"""Seconds a link may live unless the operator says otherwise: it works for whoever holds it."""

LONGEST_SIGNED = 7 * 24 * 3600
"""Seconds. S3 and its kind sign for no longer (Signature Version 4)."""

SHORTEST_KEY = 32
CHUNK = 256 * 1024
"""Bytes a stream reads at once: a 512 x 512 PNG in two or three turns of the thread pool."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)
_EXPIRES = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)


class PictureStoreError(Exception):
    """Base of this file's errors. `str()` is a sentence for the operator; it may name a folder or a bucket."""


class PictureMissing(PictureStoreError):
    """No such picture: never stored, deleted, or a name that cannot be one."""


class SignatureInvalid(PictureStoreError):
    """The link was not made here, or was changed."""


class SignatureExpired(PictureStoreError):
    """The link was made here and its time is over."""


class RangeNotSatisfiable(PictureStoreError):
    """The range begins behind the last byte. `size` is the whole picture's, for `Content-Range: bytes */size`."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the picture has {size} bytes")
        self.size = size


class StoreUnavailable(PictureStoreError):
    """The store does not answer now; the same call may work later."""


class StoreDenied(StoreUnavailable):
    """The store refuses us, and will until somebody changes a setting."""


class StoreFull(StoreUnavailable):
    """The store takes nothing more."""


@dataclass(frozen=True, slots=True)
class PictureStream:
    """An opened picture, or one range of it. Iterate it once, or close it: an opened file waits behind it."""

    size: int
    """Bytes of the whole picture."""
    start: int
    end: int
    """The bytes that come are [start, end)."""
    etag: str
    """Strong, quotes included."""
    last_modified: datetime
    content_type: str
    file_name: str
    chunks: AsyncIterator[bytes]
    close: Callable[[], None]

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def partial(self) -> bool:
        return self.length != self.size

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class PictureStore:
    """The gateway's side of the store. Made once, shared by all requests."""

    def __init__(
        self,
        place: Folder | Bucket,
        *,
        signing_key: bytes,
        signer: Bucket | None = None,
        longest_link: int = LONGEST_LINK,
    ) -> None:
        if len(signing_key) < SHORTEST_KEY:
            raise ValueError(
                f"the signing key has {len(signing_key)} bytes; give it {SHORTEST_KEY} random ones or more"
            )
        self.place = place
        self._signing_key = signing_key
        self._longest_link = longest_link
        self._signer = signer or (place if isinstance(place, Bucket) and place.can_sign else None)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        signing_key: bytes,
        options: StoreOptions | None = None,
        public_endpoint: str | None = None,
        longest_link: int = LONGEST_LINK,
    ) -> PictureStore:
        """Opens what `open_store` opens.

        `public_endpoint` is the bucket's address as browsers see it, where that differs from the one the gateway uses:
        the host is part of a presigned URL's signature.
        Raises ValueError for a setting that cannot work, StoreDenied and its kind for a folder that cannot be made.
        """
        options = options or StoreOptions()
        try:
            place = open_store(url, options)
        except OSError as error:
            raise _translated(error, url) from error
        signer = None
        if public_endpoint is not None:
            if not place.can_sign:
                raise ValueError("a public endpoint needs a bucket (s3://) to sign for")
            opened = open_store(url, replace(options, endpoint=public_endpoint))
            signer = opened if isinstance(opened, Bucket) else None
        return cls(place, signing_key=signing_key, signer=signer, longest_link=longest_link)

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
        return self.signed_path(key, expires_in=expires_in, now=now)

    async def signed_url(self, key: str, *, expires_in: int) -> str:
        """A presigned GET. Type and file name of the answer are the stored object's own: obstore cannot add them here.

        Raises StoreUnavailable where the store cannot sign or has no credentials to sign with.
        """
        parse_key(key)
        if self._signer is None:
            raise StoreUnavailable(f"{self.place.label} cannot sign URLs: give out signed paths of the gateway")
        lifetime = timedelta(seconds=self._lifetime(expires_in))
        try:
            url: str = await obstore.sign_async(self._signer.store, "GET", key, lifetime)  # type: ignore[call-overload]
            return url
        except (OSError, BaseError) as error:
            raise _translated(error, self.place.label) from error

    def signed_path(self, key: str, *, expires_in: int, now: float) -> str:
        """`/pictures/<key>?expires=<seconds since 1970>&signature=<hex>` for `verify` to accept until then."""
        parse_key(key)
        expires = int(now) + self._lifetime(expires_in)
        return f"/pictures/{key}?" + urlencode({"expires": expires, "signature": self._signature(key, expires)})

    def verify(self, key: str, *, expires: str, signature: str, now: float) -> None:
        """Accepts what `signed_path` made, while it is young. SignatureInvalid or SignatureExpired otherwise."""
        if not _EXPIRES.fullmatch(expires):
            raise SignatureInvalid("the link is not one of ours")
        expected = self._signature(key, int(expires))
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise SignatureInvalid("the link is not one of ours")
        if now >= int(expires):
            raise SignatureExpired("the link's time is over: ask for the job again to get a new one")
        if int(expires) - now > self._longest_link + 60:
            raise SignatureInvalid("the link would live longer than links may: a clock went back, or a setting changed")

    async def open(self, key: str, *, byte_range: str | None = None) -> PictureStream:
        """Opens a picture, or the part that a Range header asks for.

        As RFC 9110 has it, a Range that is malformed or names several parts is ignored, and the whole comes. Raises
        PictureMissing, RangeNotSatisfiable, StoreUnavailable and its kind.
        """
        try:
            parse_key(key)
        except ValueError as error:
            raise PictureMissing("no such picture") from error
        try:
            if isinstance(self.place, Folder):
                return await self._open_file(self.place, key, byte_range)
            return await self._open_object(self.place, key, byte_range)
        except (OSError, BaseError) as error:
            raise _translated(error, self.place.label) from error

    async def delete_prefix(self, prefix: str) -> int:
        """Deletes all pictures of a job or of one attempt; returns how many. ValueError for any other prefix."""
        require_prefix(prefix)
        try:
            return await to_thread.run_sync(self.place.delete_prefix, prefix)
        except (OSError, BaseError) as error:
            raise _translated(error, self.place.label) from error

    async def check(self) -> None:
        """Writes, reads, lists and deletes a probe. StoreUnavailable and its kind, with the remedy in the sentence."""
        try:
            await to_thread.run_sync(probe, self.place)
        except (OSError, BaseError) as error:
            raise _translated(error, self.place.label) from error

    async def sweep_probes(self) -> int:
        """Deletes what processes that were killed in `check` left half a day ago; returns how many. As `check`."""
        try:
            return await to_thread.run_sync(sweep_probes, self.place)
        except (OSError, BaseError) as error:
            raise _translated(error, self.place.label) from error

    async def free_bytes(self) -> int | None:
        """Bytes left for new pictures on the folder's disk; None for a bucket, which does not say."""
        if isinstance(self.place, Bucket):
            return None
        try:
            disk = await to_thread.run_sync(os.statvfs, self.place.root)
            return disk.f_bavail * disk.f_frsize
        except OSError as error:
            raise _translated(error, self.place.label) from error

    def _lifetime(self, seconds: int) -> int:
        if not 1 <= seconds <= self._longest_link:
            raise ValueError(f"a link lives 1 to {self._longest_link} seconds, not {seconds}")
        return seconds

    def _signature(self, key: str, expires: int) -> str:
        message = f"darkroom picture v1\n{key}\n{expires}".encode("utf-8", "replace")
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()

    async def _open_file(self, folder: Folder, key: str, byte_range: str | None) -> PictureStream:
        file, size, mtime_ns = await to_thread.run_sync(folder.open, key)
        try:
            start, end = _span(byte_range, size)
        except RangeNotSatisfiable:
            file.close()
            raise
        modified = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)
        etag = f'"{mtime_ns:x}-{size:x}"'
        return _stream(key, size, (start, end), etag, modified, _read_file(file, start, end), file.close)

    async def _open_object(self, bucket: Bucket, key: str, byte_range: str | None) -> PictureStream:
        span = None
        if byte_range is not None:
            size = (await obstore.head_async(bucket.store, key))["size"]
            span = _span(byte_range, size)
        answer = await obstore.get_async(bucket.store, key, options={"range": span} if span else None)
        meta = answer.meta
        etag = meta["e_tag"] or f'"{meta["last_modified"].timestamp():.0f}-{meta["size"]:x}"'
        chunks = _read_object(answer, self.place.label)
        return _stream(key, meta["size"], answer.range, etag, meta["last_modified"], chunks, lambda: None)


def _stream(
    key: str,
    size: int,
    span: tuple[int, int],
    etag: str,
    last_modified: datetime,
    chunks: AsyncIterator[bytes],
    close: Callable[[], None],
) -> PictureStream:
    parts = parse_key(key)
    content_type = CONTENT_TYPES[parts.output_format]
    start, end = span
    return PictureStream(size, start, end, etag, last_modified, content_type, parts.file_name, chunks, close)


async def _read_file(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    with file:
        await to_thread.run_sync(file.seek, start)
        left = end - start
        while left:
            chunk = await to_thread.run_sync(file.read, min(CHUNK, left))
            if not chunk:
                raise StoreUnavailable("a picture became shorter while it was read")
            left -= len(chunk)
            yield chunk


async def _read_object(answer: obstore.GetResult, label: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.stream(min_chunk_size=CHUNK):
            yield bytes(chunk)
    except (OSError, BaseError) as error:
        raise _translated(error, label) from error


def _span(header: str | None, size: int) -> tuple[int, int]:
    """The bytes [start, end) that a Range header asks of `size`. RFC 9110, 14.1.2."""
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or not any(found.groups()):
        return 0, size
    first, last = found.groups()
    if not first:
        wanted = min(int(last), size)
        if not wanted:
            raise RangeNotSatisfiable(size)
        return size - wanted, size
    start = int(first)
    if last and int(last) < start:
        return 0, size
    if start >= size:
        raise RangeNotSatisfiable(size)
    return start, min(int(last) + 1, size) if last else size


def _translated(error: Exception, label: str) -> PictureStoreError:
    kinds = {Fault.MISSING: PictureMissing, Fault.DENIED: StoreDenied, Fault.FULL: StoreFull}
    fault, why = diagnose(error, label)
    return kinds.get(fault, StoreUnavailable)(why)
