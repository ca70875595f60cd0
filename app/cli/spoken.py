"""What the service says, as whoever sits at a terminal reads it: moments in the zone of this machine, commands in the
place of routes. Refuses to know what is said.
"""

from __future__ import annotations

import re
from datetime import datetime

from app.cli.plain import plain

COMMANDS = {
    "GET /v1/models": "`darkroom models`",
    "GET /v1/admin/workers": "`darkroom admin workers`",
    "Send your key in the header: Authorization: Bearer <key>.": "The service asks for a key.",
}
"""Of routes and headers that the service names, what a terminal has."""

_ROUTE = re.compile(rf"({'|'.join(map(re.escape, COMMANDS))})(?![\w/])")
_MOMENT = re.compile(r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z")


def spoken(text: object) -> str:
    """A sentence of the service's, harmless for a terminal."""
    said = _MOMENT.sub(lambda found: moment(found[0], zone=True), plain(text))
    return _ROUTE.sub(lambda found: COMMANDS[found[0]], said)


def moment(text: str, *, zone: bool = False) -> str:
    """A time of the API in the zone of this machine, whose name is said in sentences."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime(f"%Y-%m-%d %H:%M:%S{' %Z' if zone else ''}")
    except (ValueError, OverflowError, OSError):
        return plain(text)
