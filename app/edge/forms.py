"""multipart/form-data (RFC 7578), read from the bytes of a whole body.

Knows parts, names and bytes. Refuses to know what a route wants of them, and what is in a file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.edge.errors import MalformedForm

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# It warns of every form that is refused, with a byte of it.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MAX_PARTS: Final = 64
MAX_FIELD_BYTES: Final = 64 * 1024
"""Of a part that is no file, as much as JSON may have."""

FORM_OVERHEAD: Final = MAX_FIELD_BYTES
"""Bytes of a form beside its file: boundaries, the heads of parts, a few fields."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part with a file name. The name itself, and the type that the sender guessed from it, tell nothing."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """Fields and files in their order; a name may come more than once."""

    fields: tuple[tuple[str, str], ...]
    files: tuple[FilePart, ...]

    def files_of(self, name: str) -> list[bytes]:
        """The files of this name."""
        return [part.data for part in self.files if part.name == name]


def read_form(body: bytes, content_type: str) -> Form:
    """The form in a body; `content_type` is the header's value. Raises MalformedForm.

    Slow for what was written to make it slow: call it in a thread.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedForm("The Content-Type of the form names no boundary.")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedForm("The body is no multipart/form-data with the boundary of its Content-Type.") from error
    if not reader.is_whole:
        raise MalformedForm("The form ends before its last boundary.")
    return Form(tuple(reader.fields), tuple(reader.files))


class _Reader:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[FilePart] = []
        self.is_whole = False
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_head,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._end_form,
        }

    def _begin(self) -> None:
        if len(self.fields) + len(self.files) >= MAX_PARTS:
            raise MalformedForm(f"A form has at most {MAX_PARTS} parts.")
        self._header, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._options: dict[bytes, bytes] = {}

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, self._options = parse_options_header(bytes(self._value))
        self._header, self._value = bytearray(), bytearray()

    def _end_head(self) -> None:
        if not self._options.get(b"name"):
            raise MalformedForm("A part of the form has no name.")
        self._is_file = b"filename" in self._options

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]
        if not self._is_file and len(self._data) > MAX_FIELD_BYTES:
            raise MalformedForm(f"A part that is no file has at most {MAX_FIELD_BYTES} bytes.")

    def _end(self) -> None:
        try:
            name = self._options[b"name"].decode()
            if self._is_file:
                self.files.append(FilePart(name, bytes(self._data)))
            else:
                self.fields.append((name, self._data.decode()))
        except UnicodeDecodeError:
            raise MalformedForm("A name or a field of the form is not UTF-8.") from None
        self._data = bytearray()

    def _end_form(self) -> None:
        self.is_whole = True
