"""docs/reliability.md names a test for each fault: it must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(?:(?P<file>tests/[\w/]+\.py)|(?P<same>…)|(?P<bare>test_\w+\.py))(?:::(?P<test>test_\w+))?`")


def named_tests() -> list[tuple[str, str | None]]:
    """Files and tests in the order of the page; a bare file name and an ellipsis mean the folder or file before."""
    found: list[tuple[str, str | None]] = []
    file = ""
    for match in NAMED.finditer((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")):
        if match["file"]:
            file = match["file"]
        elif match["bare"]:
            file = f"{file.rpartition('/')[0]}/{match['bare']}"
        found.append((file, match["test"]))
    return found


def test_every_named_test_is_there() -> None:
    found = named_tests()
    assert len(found) > 30
    missing = [
        f"{file}::{test}"
        for file, test in found
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
