"""How a picture that came in is called: by whose it is and what is in it, so that the same content has one id."""

from __future__ import annotations

import hashlib
import re

from app.contract.messages.cells import without_cell

_ID = re.compile(r"in_[0-9a-f]{24}")


def input_id(tenant: str, sha256: str) -> str:
    """The id of a tenant's picture by what its stored file hashes to."""
    return f"in_{hashlib.sha256(f'{tenant}/{sha256}'.encode()).hexdigest()[:24]}"


def is_input_id(text: str) -> bool:
    """Could this be an id? Asked before Redis is."""
    return _ID.fullmatch(without_cell(text)) is not None
