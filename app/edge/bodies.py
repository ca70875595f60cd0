"""What the body of a request may be, route by route, and where it is kept until the route has read it.

Knows media types, bytes and the clock. Refuses to know what a body says: JSON has its long strings taken out by name,
unread. What is large lies in a file, and only so many bytes of those are here at a time: the others wait on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import anyio
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import Receive

from app.edge.body_queues import Space, Turns
from app.edge.errors import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from app.edge.strict_json import parse_json
from app.edge.versions import with_one_version
from app.edge.waiting import ClientGone

SMALL: Final = 64 * 1024
"""Bytes of JSON that any route takes. Up to this a body stays in memory, and nothing is counted."""

WITH_PICTURES: Final = 32 * 1024 * 1024
"""Bytes of JSON that may hold pictures in base64; apart from them it is as small as any."""

SPACE: Final = 1024 * 1024 * 1024
"""Bytes of large bodies in files of one process. A hundred photos of 10 MB are here at once, and the 33rd of 32 MiB is
not read before another is done with: its sender is slowed down, not sent away, for as long as a body may take."""

SECONDS_A_BYTE: Final = 8 / 2**20
"""More for each byte that has come: who has 1 Mbit/s can send a photo, and who sends nothing is not waited for."""

LONG: Final = 4 * 1024
"""Characters from which a string is taken out."""

BATCH: Final = 1024 * 1024
"""Bytes that are written at once, in a thread."""

WRITTEN_AT_ONCE: Final = 4
"""Of the threads that pictures are read in: with a slow disk, those who look at pictures would wait for those who send
some."""

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"

_MARKS: Final = (b'"', b",", b"[", b"{")
"""Of JSON: each value begins with one of them or comes behind one, but for the first and those of names."""

_UTF_8: Final = frozenset({"utf-8", "utf8", "us-ascii"})


@dataclass(frozen=True, slots=True)
class BodyRule:
    """`most` is how many bytes a body of each media type may have. In JSON that is larger than SMALL, long strings that
    are called one of `taken_out`, or stand in a list that is, are taken out, and what is left must be SMALL."""

    most: Mapping[str, int] = field(default_factory=lambda: {JSON: SMALL})
    taken_out: frozenset[str] = frozenset()

    @property
    def is_for_pictures(self) -> bool:
        """Whether honest bodies may be large."""
        return max(self.most.values()) > SMALL

    def check(self, headers: Headers) -> str:
        """The body's media type. Raises BodyTooLarge and UnsupportedMediaType by the headers alone."""
        if ", ".join(headers.getlist("transfer-encoding")).strip().lower() not in ("", "chunked"):
            raise UnsupportedMediaType("Send the body in no transfer coding but chunked.")
        media_type, _, parameters = headers.get("content-type", "").partition(";")
        media_type = media_type.strip().lower()
        self._check_length(headers.get("content-length", "0"), media_type)
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("Send the body without Content-Encoding.")
        if media_type not in self.most:
            raise UnsupportedMediaType(self._taken())
        for parameter in parameters.split(";"):
            name, _, value = parameter.strip().lower().partition("=")
            if media_type == JSON and name == "charset" and value.strip('"') not in _UTF_8:
                raise UnsupportedMediaType("Send the JSON in UTF-8.")
        return media_type

    def _check_length(self, length: str, media_type: str) -> None:
        most = self.most.get(media_type, max(self.most.values()))
        # int() refuses numbers of thousands of digits; a length that long is too large anyway.
        if len(length) > 18 or (length.isdecimal() and int(length) > most):
            raise too_large(most)

    def _taken(self) -> str:
        if list(self.most) == [JSON]:
            return "Send JSON with the header Content-Type: application/json."
        return f"Send a body with one of these in the header Content-Type: {', '.join(self.most)}."


PLAIN: Final = BodyRule()


@dataclass(frozen=True)
class BodyRules:
    """The table, by path. One may have `*` for any one part of it; what is not in the table takes JSON of SMALL."""

    rules: Mapping[str, BodyRule] = field(default_factory=dict)

    def of(self, path: str) -> BodyRule:
        """The rule of a path. Methods that it does not take are the application's to refuse."""
        # Who has the version too often, or not at all, is to hear of that, and not that pictures are too large.
        for each in dict.fromkeys((path, with_one_version(path))):
            if (exact := self.rules.get(each)) is not None:
                return exact
            if found := next((rule for route, rule in self.rules.items() if _pattern(route).fullmatch(each)), None):
                return found
        return PLAIN


@cache
def _pattern(route: str) -> re.Pattern[str]:
    return re.compile(re.escape(route).replace(r"\*", "[^/]+"))


def too_large(most: int) -> BodyTooLarge:
    """The refusal of a body that has more than so many bytes."""
    return BodyTooLarge(f"A body has at most {most} bytes.")


def _too_much_beside() -> BodyTooLarge:
    return BodyTooLarge(f"Apart from pictures in base64, a body has at most {SMALL} bytes.")


class Body:
    """The bytes of one body. Once they are large they lie in a file, which is gone when the body is closed."""

    def __init__(self) -> None:
        self.size = 0
        self.taken_out: dict[str, tuple[int, int]] = {}
        """Where each string begins that was taken out, and how long it is, by what stands in its place."""
        self._space: tuple[Space, int] | None = None
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        # Closed by `close`, which the guard calls.
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=SMALL)  # noqa: SIM115

    @property
    def is_large(self) -> bool:
        return self._space is not None

    async def add(self, chunk: bytes, *, writing: anyio.CapacityLimiter | None = None) -> None:
        """The next bytes. `writing` bounds the threads in which bodies are written."""
        self.size += len(chunk)
        self._unwritten.append(chunk)
        self._unwritten_bytes += len(chunk)
        if self._unwritten_bytes >= BATCH:
            await to_thread.run_sync(self._write, limiter=writing)

    async def take(self, space: Space, amount: int, *, seconds: float) -> None:
        """Take so many bytes of the space, until it is closed. Raises TooManyUploads after `seconds`."""
        self._space = (space, await space.take(amount, seconds=seconds))

    def read(self) -> bytes:
        """All of it, or nothing after `close`. In a thread, where it is large."""
        self._write()
        return self._read(0, self.size)

    def string(self, stand_in: str) -> bytes | None:
        """The string that was taken out for this one, in UTF-8."""
        return self._read(*self.taken_out[stand_in]) if stand_in in self.taken_out else None

    def take_out(self, names: frozenset[str]) -> bytes:
        """The JSON without its long strings of these names, each of which stays here. Slow; one parse of all of it.

        Raises MalformedJson, and BodyTooLarge if what is left is not SMALL.
        """
        data = self.read()
        # Of pictures in base64 none has these, but for the comma of a data: URL. Two million small values take half a
        # minute and a gigabyte, and the others wait.
        if any(data.count(mark) > SMALL for mark in _MARKS):
            raise _too_much_beside()
        value = parse_json(data)
        self._file.seek(0)
        self._file.truncate()
        left = json.dumps(self._without_long(value, names), ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(left) > SMALL:
            raise _too_much_beside()
        return left

    def close(self) -> None:
        """Forget the bytes and let another body come. Closing twice does no harm."""
        self._file.close()
        self._unwritten.clear()
        if self._space is not None:
            space, amount = self._space
            self._space = None
            space.give(amount)

    def _write(self) -> None:
        self._file.writelines(self._unwritten)
        self._unwritten.clear()
        self._unwritten_bytes = 0

    def _read(self, start: int, length: int) -> bytes:
        if self._file.closed:
            return b""
        self._file.seek(start)
        return bytes(self._file.read(length))

    def _without_long(self, value: Any, names: frozenset[str], *, is_named: bool = False) -> Any:
        if isinstance(value, str):
            return self._kept(value) if is_named and len(value) > LONG else value
        if isinstance(value, list):
            return [self._without_long(each, names, is_named=is_named) for each in value]
        if isinstance(value, dict):
            return {name: self._without_long(each, names, is_named=name in names) for name, each in value.items()}
        return value

    def _kept(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        # Neither base64 nor a data: URL looks like this. Equal strings have equal ones: bodies can be compared.
        stand_in = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.taken_out[stand_in] = (self._file.tell(), len(data))
        self._file.write(data)
        return stand_in


class Arrivals:
    """Reads bodies. `seconds` is how long a small one may take to arrive."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._space = Space(SPACE)
        self._turns = Turns()
        self._writing = anyio.CapacityLimiter(WRITTEN_AT_ONCE)
        # Each holds the JSON as bytes, as text and as strings at the same time.
        self._parsing = anyio.CapacityLimiter(1)

    async def read(self, receive: Receive, headers: Headers, *, most: int) -> Body:
        """A whole body, for the caller to close. Raises BodyTooLarge, BodyTooSlow, TooManyUploads and ClientGone."""
        announced = headers.get("content-length", "")
        body = Body()
        try:
            await self._fill(body, receive, most, int(announced) if announced.isdecimal() else most)
        except BaseException:
            body.close()
            raise
        return body

    async def take_out(self, body: Body, names: frozenset[str]) -> bytes:
        """`body.take_out`, one at a time."""
        return await to_thread.run_sync(body.take_out, names, limiter=self._parsing)

    async def drain(self, receive: Receive, headers: Headers, *, most: int, seconds: float) -> None:
        """Read a body of up to so many bytes and forget it, or as much of it as comes in so many seconds."""
        length = headers.get("content-length", "")
        if "expect" in headers or len(length) > 18 or (length.isdecimal() and int(length) > most):
            return
        came, more = 0, True
        ends = asyncio.get_running_loop().time() + seconds
        try:
            while more and came < most:
                async with asyncio.timeout_at(ends):
                    message = await receive()
                came += len(message.get("body", b""))
                more = message.get("more_body", False)
                if came > SMALL:
                    ends += await self._turns.take()
        except TimeoutError:
            return

    async def _fill(self, body: Body, receive: Receive, most: int, announced: int) -> None:
        clock = asyncio.get_running_loop().time
        began, more = clock(), True
        while more:
            allowed = self._seconds + body.size * SECONDS_A_BYTE
            try:
                async with asyncio.timeout_at(began + allowed):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(f"The body did not arrive within {allowed:g} seconds.") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            await body.add(message.get("body", b""), writing=self._writing)
            if body.size > most:
                raise too_large(most)
            more = message.get("more_body", False)
            if body.size > SMALL:
                began += await self._wait(body, announced)

    async def _wait(self, body: Body, announced: int) -> float:
        """For the others that come in. The seconds are not the sender's."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if not body.is_large:
            await body.take(self._space, announced, seconds=self._seconds)
        await self._turns.take()
        return clock() - began
