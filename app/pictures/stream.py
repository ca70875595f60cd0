"""The bytes of one picture, or of the range that a Range header asks for. Refuses to know links."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import obstore
from anyio import to_thread
from obstore.exceptions import BaseError

from app.contract.objects.folder import Folder
from app.contract.objects.names import parse_key
from app.contract.objects.store import Bucket
from app.pictures.errors import RangeNotSatisfiable, StoreUnavailable, translated

CHUNK = 256 * 1024
"""Bytes a stream reads at once: a 512 x 512 PNG in two or three turns of the thread pool."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


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


@dataclass(frozen=True, slots=True)
class Label:
    """What a download is called, and what it is."""

    file_name: str
    content_type: str

    @classmethod
    def of(cls, key: str) -> Label:
        """As the key of a picture says it. ValueError for a key of no picture."""
        parts = parse_key(key)
        return cls(parts.file_name, parts.content_type)


async def open_file(folder: Folder, key: str, byte_range: str | None, label: Label) -> PictureStream:
    """A picture in a folder. Raises RangeNotSatisfiable, OSError."""
    file, size, mtime_ns = await to_thread.run_sync(folder.open, key)
    try:
        start, end = _span(byte_range, size)
    except RangeNotSatisfiable:
        file.close()
        raise
    modified = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)
    etag = f'"{mtime_ns:x}-{size:x}"'
    return _stream(label, size, (start, end), etag, modified, _read_file(file, start, end), file.close)


async def open_object(bucket: Bucket, key: str, byte_range: str | None, label: Label) -> PictureStream:
    """A picture in a bucket. Raises RangeNotSatisfiable, and what obstore raises."""
    span = None
    if byte_range is not None:
        size = (await obstore.head_async(bucket.store, key))["size"]
        span = _span(byte_range, size)
    answer = await obstore.get_async(bucket.store, key, options={"range": span} if span else None)
    meta = answer.meta
    etag = meta["e_tag"] or f'"{meta["last_modified"].timestamp():.0f}-{meta["size"]:x}"'
    chunks = _read_object(answer, bucket.label)
    return _stream(label, meta["size"], answer.range, etag, meta["last_modified"], chunks, lambda: None)


def _stream(
    label: Label,
    size: int,
    span: tuple[int, int],
    etag: str,
    last_modified: datetime,
    chunks: AsyncIterator[bytes],
    close: Callable[[], None],
) -> PictureStream:
    start, end = span
    return PictureStream(size, start, end, etag, last_modified, label.content_type, label.file_name, chunks, close)


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
        raise translated(error, label) from error


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
