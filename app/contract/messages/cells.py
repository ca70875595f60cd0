"""Which cell an id names. A cell is a Redis with its gateways, workers and webhooks; ids that are made in one with a
name end with it.

A job's id keeps its length, so that every version and every path takes it: some hexadecimal digits, a z, the cell's
name. An input's is made of what is in the picture, and the name stands behind it. Ids without a cell belong to whoever
is asked. Refuses to know where cells are.
"""

from __future__ import annotations

import re

CELL_NAME = r"[0-9a-z]{1,5}"
"""Five letters at most leave a job's id 72 bits of chance. Of 600 million ids, a week's at a thousand a second, two are
the same in one week of 26,000."""

_JOB_DIGITS = 24
_JOB = re.compile(rf"job_(?=.{{{_JOB_DIGITS}}}\Z)[0-9a-f]+z({CELL_NAME})")
_INPUT = re.compile(rf"(in_[0-9a-f]{{24}})z({CELL_NAME})")
_ANYWHERE = re.compile(rf"\b(?:job_[0-9a-z]{{{_JOB_DIGITS}}}|in_[0-9a-f]{{24}}z{CELL_NAME})\b")


def ending(digits: str, cell: str | None) -> str:
    """A job's digits with the cell in the place of the last of them."""
    tail = f"z{cell}" if cell else ""
    return digits[: len(digits) - len(tail)] + tail


def in_cell(input_id: str, cell: str | None) -> str:
    """The id of an input as callers are told it."""
    return f"{input_id}z{cell}" if cell else input_id


def without_cell(input_id: str) -> str:
    """The id of an input as Redis has it."""
    found = _INPUT.fullmatch(input_id)
    return found[1] if found else input_id


def cell_of(given: str) -> str | None:
    """The cell that the id of a job or of an input names, if it names one."""
    if found := _JOB.fullmatch(given):
        return found[1]
    return found[2] if (found := _INPUT.fullmatch(given)) else None


def cells_in(text: str) -> set[str]:
    """The cells that ids anywhere in a path or a query name."""
    return {cell for each in _ANYWHERE.findall(text) if (cell := cell_of(each))}
