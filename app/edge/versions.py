"""What a path means that has its version too often, or not at all: of two clients of one dialect one wants /v1 in the
base URL, and the other adds it.
"""

from __future__ import annotations

import re

_VERSIONS = re.compile("^(/v1)+(?=/)")


def with_one_version(path: str) -> str:
    """The path with /v1 before it, once."""
    return f"/v1{_VERSIONS.sub('', path)}"
