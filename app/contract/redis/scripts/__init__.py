"""The Redis scripts, one file each. They are the only way the record changes."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from app.contract.redis import keys, rq_names, usage_counters

OF_ALL = ("turns", "prelude", "life")
"""Files that every script may use, in the order in which they need each other."""

_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_TEXT = re.compile(r"'[^'\n]*'")
_PART = re.compile(r"^local (?:function )?(\w+).*\n(?:(?!local ).*\n)*", re.MULTILINE)
"""A constant or function at the beginning of a line, with all lines that belong to it."""


@cache
def source(name: str, *shared: str) -> str:
    """Lua text of one script, after what it uses of keys.py's names, of the files of all and of further `shared` ones.

    Nothing else of them: Lua makes every constant and function anew in each call, used or not.
    """
    script = _text(name)
    used, before = _words(script), list[str]()
    for part in reversed(_parts(shared)):
        if part[1] in used:
            before.insert(0, part[0])
            used |= _words(part[0])
    return "".join(before) + script


def _parts(shared: tuple[str, ...]) -> list[re.Match[str]]:
    """In the order in which they need each other."""
    return list(_PART.finditer(_COMMENT.sub("", constants() + "".join(map(_text, (*OF_ALL, *shared))))))


def _text(name: str) -> str:
    return (files(__name__) / f"{name}.lua").read_text()


def _words(text: str) -> set[str]:
    """Names in it, and none that only a text says."""
    return set(re.findall(r"\w+", _TEXT.sub("", _COMMENT.sub("", text))))


def constants() -> str:
    """Names and numbers of keys.py, rq_names.py and usage_counters.py as Lua locals, one per line."""
    declared = vars(keys) | vars(rq_names) | vars(usage_counters)
    names = {name: value for name, value in declared.items() if name.isupper()}
    return "\n".join(f"local {name} = {_literal(value)}" for name, value in names.items()) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"{{{', '.join(map(_literal, value))}}}"
    return f"'{value}'" if isinstance(value, str) else str(value)
