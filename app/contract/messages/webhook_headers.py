"""Headers of its own that a webhook's receiver may ask for: which names and values a caller may choose.

Values are often secrets. They are kept beside the webhook in the record, are sent to its URL, and go nowhere else: no
view, no log, no error holds one. Knows HTTP's grammar; refuses to know who receives.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_HEADERS: Final = 16
MAX_HEADER_CHARACTERS: Final = 4_096
"""Names and values together: half of what usual servers take for a whole head."""

OURS: Final = frozenset(
    {
        "connection",
        "expect",
        "host",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
OURS_BEGIN_WITH: Final = ("content-", "proxy-", "webhook-")
"""What says how the message is framed, where it goes, and that it is genuine."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?", re.ASCII)


def _checked(headers: dict[str, str]) -> dict[str, str]:
    names = [name.lower() for name in headers]
    if len(set(names)) < len(names):
        raise PydanticCustomError("header_twice", "must name each header once; small and capital letters are alike")
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise PydanticCustomError("header_name", "must have names of 1 to 64 letters, digits and - _ .")
        if name.lower() in OURS or name.lower().startswith(OURS_BEGIN_WITH):
            raise PydanticCustomError("header_reserved", "must not name a header that delivery itself decides")
        if not _VALUE.fullmatch(value):
            raise PydanticCustomError("header_value", "must have values of visible ASCII, with spaces only inside")
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_CHARACTERS:
        raise PydanticCustomError("headers_too_long", f"must have at most {MAX_HEADER_CHARACTERS} characters together")
    return headers


WebhookHeaders = Annotated[
    dict[str, str],
    Field(max_length=MAX_HEADERS, repr=False, description="Sent with every message, for instance Authorization"),
    AfterValidator(_checked),
]
