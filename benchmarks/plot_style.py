"""How the pictures look: one row of small axes on a card of its own, light, and dark where the reader's system is.

Knows colours, type and the file's bytes. Refuses to know what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import Figures

CARD, INK, MUTED, GRID = "#fcfcfb", "#1f2328", "#6b7280", "#d9dce1"
SERIES = ("#1d5fa8", "#b3500f", "#2f7d4f")
"""Blue, orange, green: told apart by who sees no red, and 4.5 to 1 and more on the card."""

DARK = {
    CARD: "#15191f",
    INK: "#e6edf3",
    MUTED: "#9aa4b2",
    GRID: "#333b46",
    SERIES[0]: "#6cb0f5",
    SERIES[1]: "#f0a063",
    SERIES[2]: "#6fcf97",
}
"""What each colour is where the reader's system is dark."""

STYLE = {
    # Ids would else be random: the same figures are to give the same bytes.
    "svg.hashsalt": "darkroom",
    # Text stays text: small, to be searched, in the reader's own type.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

WIDTH, HEIGHT = 8.6, 3.6
"""Inches of 72 points."""


def figure_of(columns: int) -> tuple[Figure, list[Axes]]:
    """A card with so many axes beside each other."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def titled(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def from_zero(axis: Axes) -> None:
    """What is twice as much is drawn twice as high."""
    axis.set_ylim(0, 1.08 * axis.dataLim.ymax)


def signed(figure: Figure, *found: Figures) -> None:
    """From which machines and days it is."""
    figure.supxlabel("; ".join(f"{each.hardware}, {each.date}" for each in found), fontsize=7.5, color=MUTED)


def save(draw: Callable[[], Figure], file: Path) -> None:
    """What `draw` makes, as SVG."""
    drawn = io.StringIO()
    with matplotlib.rc_context(STYLE):
        draw().savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    file.write_text(with_dark(drawn.getvalue()))


def with_dark(svg: str) -> str:
    """The same picture with a second set of colours. Who does not know the rule sees the light one."""
    rules = (
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>"
    return svg.replace("<defs>", f"{style}\n <defs>", 1)
