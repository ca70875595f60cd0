"""JSON that has one meaning for every reader: what RFC 8259 leaves open is refused here.

Knows bytes and JSON. Refuses to know what the JSON says.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from app.edge.errors import MalformedJson

MAX_DEPTH: Final = 16


def parse_json(body: bytes) -> Any:
    """What the body says. Raises MalformedJson, with a sentence that repeats nothing of the body."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise MalformedJson("The body begins with a byte order mark: send UTF-8 without one.")
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedJson("The body is not UTF-8.") from None
    except RecursionError:
        raise MalformedJson(f"The JSON nests deeper than {MAX_DEPTH}.") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The JSON ends or breaks at byte {len(error.doc[: error.pos].encode())}.") from None
    except ValueError:
        raise MalformedJson("The JSON holds a number that is too long.") from None
    if _deeper_than(MAX_DEPTH, value):
        raise MalformedJson(f"The JSON nests deeper than {MAX_DEPTH}.")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("An object of the JSON names a key twice.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson("The JSON holds NaN or Infinity, which are no JSON numbers.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedJson("The JSON holds a number that is too large.")
    return number


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_doubles, parse_constant=_refuse_constant, parse_float=_finite
)


def _deeper_than(levels: int, value: Any) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [child for parent in layer for child in _children(parent)]
        if not layer:
            return False
    return any(isinstance(child, dict | list) for child in layer)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
