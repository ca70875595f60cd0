"""When to try again. Knows numbers and an answer's Retry-After, no clock of its own."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MINUTE, HOUR = 60, 3_600

DELAYS = (5, 30, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 20 * HOUR, 34 * HOUR)
"""Seconds after the first, second, ... failed try. Ten tries over three days: a deploy, an outage and a weekend."""

TRIES = len(DELAYS) + 1
JITTER = 0.1
"""A tenth to either side, so that the deliveries of one outage do not all come back in the same second."""

LONGEST_RETRY_AFTER = 6 * HOUR
"""A receiver may slow us down, but not keep an entry until its job is forgotten."""


def next_delay_ms(number: int, *, retry_after: float | None = None, chance: float) -> int | None:
    """How long after failed try `number` (1 is the first) to try again; None if that was the last.

    `retry_after` in seconds can only lengthen the wait. `chance` in [0, 1) spreads it.
    """
    if number >= TRIES:
        return None
    delay = DELAYS[number - 1] * (1 + JITTER * (2 * chance - 1))
    return int(1000 * max(delay, min(retry_after or 0, LONGEST_RETRY_AFTER)))


def retry_after_seconds(value: str | None, *, now: datetime) -> float | None:
    """A Retry-After header in either form of RFC 9110; None if it is missing, in the past or unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds()) or None
