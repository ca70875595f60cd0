"""Whose jobs and pictures a gateway has, where there are several cells, and the address of the others.

Knows names and addresses. Refuses to ask another cell anything: a client that may go there is told where, and goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Scope

from app.contract.common.environment import items
from app.contract.messages.cells import CELL_NAME, cell_of, cells_in
from app.edge.errors import OtherCell

ADDRESSED = ("/v1/", "/pictures/")
"""What the paths begin with that have ids in them, or in their query. The page's own address may name a job, too, and
the page says what its API answers."""


@dataclass(frozen=True, slots=True)
class Cells:
    """This gateway's cell, if it has a name, and the addresses of others by theirs."""

    own: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)

    def require_here(self, scope: Scope) -> None:
        """Raises OtherCell for a request about jobs or pictures of one other cell. Nothing and nobody is asked before:
        a key of the other cell need not be known here."""
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        if not self.addresses or not path.startswith(ADDRESSED):
            return
        named = cells_in(f"{path}?{query}")
        if len(named) == 1 and (cell := named.pop()) in self.addresses:
            address = self.addresses[cell] + scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
            raise OtherCell(f"It is in cell {cell}: ask there.", headers={"Location": address})

    def why_not_here(self, given: str) -> str:
        """A sentence about an id that was not found here; empty if its cell is no reason."""
        cell = cell_of(given)
        if cell is None or cell == self.own:
            return ""
        if cell in self.addresses:
            return f"It is in cell {cell}, at {self.addresses[cell]}, and this is another."
        return f"Its id names the cell {cell}, which is not known here."


def read_cells(value: Any) -> Any:
    """eu1=https://eu1.example.org,us1=https://us1.example.org/pictures as a dict; other than texts as they are.

    Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    cells: dict[str, str] = {}
    for item in items(value):
        name, equals, address = (part.strip() for part in item.partition("="))
        parts = urlsplit(address)
        if not equals or not re.fullmatch(CELL_NAME, name) or parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("write name=https://address, commas between; a name is 1 to 5 of 0-9 and a-z")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"the address of {name} must have no user, query or fragment")
        if name in cells:
            raise ValueError(f"{name} is given twice")
        cells[name] = address.rstrip("/")
    return cells
