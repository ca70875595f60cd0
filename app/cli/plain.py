"""Text that came from somewhere else, made harmless for a terminal. Whatever a service or a file says is printed so."""

from __future__ import annotations


def plain(text: object, length: int | None = None) -> str:
    """Text that can do nothing to a terminal, in one line, shortened to `length` characters."""
    # Escape sequences and marks that turn the direction of writing are not printable.
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if length is None or len(line) <= length else line[: length - 1] + "…"
