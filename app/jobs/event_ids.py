"""Places in the events of jobs, as they stand in `id:` and come back in Last-Event-ID.

Knows Redis's stream ids and how many of them become one text. Refuses to know what happened at a place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping

Places = Mapping[str, str | None]
"""By job the id of the last event that was sent; None if nothing was."""

_STREAM_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,9})")
_DIGEST_BYTES = 6


def order(stream_id: str) -> tuple[int, int]:
    """Ids of one stream sort by this."""
    ms, _, count = stream_id.partition("-")
    return int(ms), int(count)


def known_place(last_event_id: str | None, last: str) -> str | None:
    """The place to go on from; None, which means the beginning, for what is no place in this job's events."""
    found = _STREAM_ID.fullmatch(last_event_id or "")
    return found[0] if found and order(found[0]) <= order(last) else None


def write_places(places: Places) -> str:
    """The places of many jobs as one id. It belongs to these jobs, in whichever order they are named.

    One time for all would not do: two jobs' events may bear the same id, and clocks are set back.
    """
    told = [order(place) for place in places.values() if place is not None]
    base = min((ms for ms, _ in told), default=0)
    written = bytearray(_digest(places)) + _varint(base)
    for job_id in sorted(places):
        place = places[job_id]
        if place is None:
            written += _varint(0)
        else:
            ms, count = order(place)
            written += _varint(ms - base + 1) + _varint(count)
    return base64.urlsafe_b64encode(written).decode().rstrip("=")


def read_places(last_event_id: str | None, last: Mapping[str, str]) -> dict[str, str | None]:
    """Where to go on in each of the jobs of `last`, which says where their events end.

    None, the beginning, for what was not sent yet or cannot be, and for all of them if the id was written for others.
    """
    found: dict[str, str | None] = dict.fromkeys(last)
    try:
        text = last_event_id or ""
        written = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if written[:_DIGEST_BYTES] != _digest(last):
            return found
        numbers = _varints(written[_DIGEST_BYTES:])
        base = next(numbers)
        for job_id in sorted(last):
            if offset := next(numbers):
                found[job_id] = known_place(f"{base + offset - 1}-{next(numbers)}", last[job_id])
    except (binascii.Error, ValueError, StopIteration):
        return dict.fromkeys(last)
    return found


def _digest(job_ids: Collection[str] | Places) -> bytes:
    return hashlib.blake2b(",".join(sorted(job_ids)).encode(), digest_size=_DIGEST_BYTES).digest()


def _varint(number: int) -> bytes:
    # Seven bits a byte, the lowest first, as protobuf writes them: a hundred places then stay well below 1 kB.
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _varints(written: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in written:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
