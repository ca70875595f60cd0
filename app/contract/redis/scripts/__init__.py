"""The Redis scripts, one file each. They are the only way the record changes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from app.contract.redis.keys import lua_constants


@cache
def source(name: str) -> str:
    """Lua text of one script, with the names of keys.py and the shared functions before it."""
    folder = files(__name__)
    return lua_constants() + (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
