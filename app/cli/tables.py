"""Rows of facts: a table where it fits, blocks of lines on a narrow terminal, and never a folded row in a pipe.

Knows widths. Refuses to know what the facts are about; cells are anybody's text and are made plain here.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.plain import plain

LEAST = 16
"""Columns that a long cell needs to be read, folded or cut."""

GAP = 2
NARROW, WIDE = 20, 32
"""The column of facts' names, at least and at most: a caller may have made up a longer one."""

WIDTH_OF_A_PIPE = 1_000_000
"""More than any row has."""

NUMBERS = (
    "workers", "in memory", "waiting", "running", "waiting cost", "running cost", "seats", "free seats", "rows/s",
    "seconds", "pictures", "seconds a job", "probability", "cosine", "cosine to the first", "jobs", "failed",
    "canceled", "evaluations", "device", "stored", "uploaded",
)  # fmt: skip

Cell = str | Text


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows to stdout. On a terminal the last column is folded into what room there is for it."""
    texts = [[_text(cell) for cell in row] for row in rows]
    screen = paper()
    *others, last = _widths(columns, texts)
    if sum(others) + GAP * len(others) + min(last, LEAST) <= screen.width:
        screen.print(_table(columns, texts, narrowed=columns[-1:], overflow="fold"))
    else:
        for row in texts:
            _print_block(screen, columns, row)


def print_lines(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, cut: Collection[str], spare: Sequence[str]
) -> None:
    """Print rows to stdout, a line each. On a terminal those of the columns `cut` are shortened, the widest first, and
    where that would leave too little of them, columns of `spare` are left out, its first one first."""
    texts = [[_text(cell) for cell in row] for row in rows]
    for text in (text for row in texts for text in row):
        text.no_wrap = True
    screen, widths = paper(), dict(zip(columns, _widths(columns, texts), strict=True))
    left = list(columns)
    for name in spare:
        if sum(min(widths[each], LEAST) if each in cut else widths[each] for each in left) <= _room(screen, left):
            break
        left = [each for each in left if each != name]
    shown = [[text for name, text in zip(columns, row, strict=True) if name in left] for row in texts]
    screen.print(_table(left, shown, narrowed=cut, overflow="ellipsis"))


def _room(screen: Console, columns: Sequence[str]) -> int:
    """Characters for cells on a line of so many columns."""
    return screen.width - GAP * (len(columns) - 1)


def paper() -> Console:
    """As wide as the terminal. Whoever reads a pipe reads lines, whatever COLUMNS says of some terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, a line each, however long: a link has to stay whole to be copied."""
    screen, widest = Console(), max([NARROW, *(min(len(plain(name)), WIDE) for name, _ in facts)])
    for name, value in facts:
        screen.print(Text.assemble((f"{plain(name):<{widest}} ", "bold"), plain(value)), soft_wrap=True)


def _text(cell: Cell) -> Text:
    return Text(plain(cell)) if isinstance(cell, str) else cell


def _widths(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max([len(name), *(row[at].cell_len for row in rows)]) for at, name in enumerate(columns)]


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    *,
    narrowed: Collection[str],
    overflow: Literal["fold", "ellipsis"],
) -> Table:
    """`narrowed`: the columns that give way on a terminal, and what becomes of what has no room there."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for name in columns:
        justify: Literal["right", "left"] = "right" if name in NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=name not in narrowed, overflow=overflow)
    for row in rows:
        table.add_row(*row)
    return table


def _print_block(screen: Console, columns: Sequence[str], row: Sequence[Text]) -> None:
    """The first cell, and below it a line for each of the others that says something."""
    widest = max(map(len, columns[1:]), default=0)
    screen.print(row[0], style="bold", soft_wrap=True)
    for name, cell in zip(columns[1:], row[1:], strict=True):
        if cell.plain:
            screen.print(Text.assemble((f"  {name:<{widest}}  ", "dim"), cell), soft_wrap=True)
