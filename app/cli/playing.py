"""Frames one after the other in the same place of a terminal: coloured half blocks, which nearly all of them show.

Knows how a terminal is drawn over. Refuses to know what the frames are.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

from app.cli.terminal_pictures import CELLS, half_blocks
from app.contract.messages.trajectory import durations

if TYPE_CHECKING:
    from PIL import Image

FEWEST_CELLS = 8
GAP = "  "
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


class Shown(Protocol):
    """What is seen at once, beside each other, and a line about it."""

    @property
    def panes(self) -> Sequence[Image.Image | None]: ...

    @property
    def words(self) -> str: ...


def can_play() -> bool:
    """Whether somebody looks at a terminal that can be drawn over."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


async def play(frames: Sequence[Shown]) -> None:
    """Once; the last frame stays. Ctrl-C leaves the terminal as it was found."""
    size = shutil.get_terminal_size()
    panes = len(frames[0].panes)
    proportions = next(pane.height / pane.width for pane in frames[-1].panes if pane is not None)
    across = (size.columns - len(GAP) * (panes - 1)) // panes
    down = int((size.lines - 3) * 2 / proportions)
    cells = max(FEWEST_CELLS, min(CELLS, across, down))
    out, lines = sys.stdout, 0
    out.write(_HIDE)
    try:
        for frame, milliseconds in zip(frames, durations(len(frames)), strict=True):
            rows = drawn(frame, cells, proportions)
            out.write(f"\x1b[{lines}A" * bool(lines) + "".join(f"\r{row}\x1b[K\n" for row in rows))
            out.flush()
            lines = len(rows)
            if frame is not frames[-1]:
                await asyncio.sleep(milliseconds / 1000)
    finally:
        out.write(_SHOW)
        out.flush()


def drawn(frame: Shown, cells: int, proportions: float) -> list[str]:
    """Its lines: the panes, each so many cells wide, and the words below. `proportions` is height to width."""
    height = max(1, round(cells * proportions / 2))
    empty = [" " * cells] * height
    panes = [empty if pane is None else half_blocks(pane, cells, 2 * height).split("\n") for pane in frame.panes]
    return [*(GAP.join(row) for row in zip_longest(*panes, fillvalue="")), frame.words]
