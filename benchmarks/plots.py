"""Pictures and tables of docs/ from the figures that are kept: `python -m benchmarks.plots`.

Draws `docs/figures/*.svg` from the JSON files beside them, which the benchmarks wrote, and writes those tables of
the pages anew that stand between `<!-- figures FILE TABLE -->` and `<!-- /figures -->`. The same figures give the same
bytes: no date, no random ids.

Knows what each picture shows. Refuses to know how a figure was measured.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.plot_style import INK, MUTED, SERIES, figure_of, from_zero, save, signed, titled
from benchmarks.report import Figures, provenance

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "benchmarks.md"
PAGES = (PAGE, ROOT / "docs" / "scaling.md")

BLOCK = re.compile(r"(<!-- figures (\S+) (\S+) -->\n).*?(\n<!-- /figures -->)", re.S)

Kept = Callable[[str], Figures]
"""The figures of a file, by its name without `.json`."""


def latency(kept: Kept) -> Figure:
    """Median and 95th percentile by load, of the three ways."""
    figure, axes = figure_of(2)
    for axis, name, title in zip(
        axes, ("trace", "gpu-trace"), ("Bundled model, CPU", "SD 1.5 at 512 pixels, GPU"), strict=True
    ):
        table = kept(name).tables["mixed"]
        for color, way in zip(SERIES, ("engine", "static batches", "one after the other"), strict=True):
            records = list(table.records(way=way))
            loads = [record["load"] for record in records]
            for share, style in (("p50", "-"), ("p95", ":")):
                label = f"{'Darkroom' if way == 'engine' else way}, {share}"
                axis.plot(loads, [record[share] for record in records], style, color=color, marker="o", label=label)
        axis.set_yscale("log")
        axis.set_xticks(sorted({record["load"] for record in table.records()}))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        titled(axis, title, "load, times what one after the other carries", "seconds to the picture")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    signed(figure, kept("trace"), kept("gpu-trace"))
    return figure


def rows(kept: Kept) -> Figure:
    """Rows a second by the size of a step, and what a matrix product on the same chip would allow."""
    figure, axes = figure_of(3)
    steps = kept("engine").tables["steps"]
    models = list(dict.fromkeys(record["model"] for record in steps.records()))
    for axis, model in zip(axes, models, strict=False):
        records = list(steps.records(model=model))
        sizes = [record["rows"] for record in records]
        axis.plot(sizes, [record["rows_s"] for record in records], "o-", color=SERIES[0], label="engine")
        _floor(axis, sizes, [record["rows_s"] / record["reach"] for record in records])
        titled(axis, f"{model.replace(', ', chr(10))}, CPU", "rows in a step", "rows a second")
    _rows_on_a_gpu(axes[2], kept("gpu-speed"))
    for axis in axes:
        from_zero(axis)
        axis.legend()
    signed(figure, kept("engine"), kept("gpu-speed"))
    return figure


def _rows_on_a_gpu(axis: Axes, found: Figures) -> None:
    steps = found.tables["steps"]
    (ceiling,) = found.tables["notes"].records(name="ceilings", figure="bf16_tflops")
    ways = {"sd compiled for one size": "compiled", "sd graphs": "graphs", "sd eager": "eager"}
    for color, (way, label) in zip(SERIES, ways.items(), strict=True):
        records = sorted(steps.records(way=way), key=lambda record: record["rows"])
        axis.plot([r["rows"] for r in records], [r["rows_s"] for r in records], "o-", color=color, label=label)
    records = list(steps.records(way="sd graphs"))
    floor = [ceiling["value"] * record["rows_s"] / record["tflop_s"] for record in records]
    # Each row rounds what it says; the chip's ceiling is one.
    _floor(axis, [record["rows"] for record in records], [max(floor)] * len(floor))
    titled(axis, "SD 1.5\n512 pixels, GPU", "rows in a step", "rows a second")


def _floor(axis: Axes, sizes: list[int], rates: list[float]) -> None:
    """No step can be faster than its operations would be as one large matrix product."""
    axis.plot(sizes, rates, "--", color=MUTED, label="matrix product")


def traffic(kept: Kept) -> Figure:
    """What is accepted and polled, beside the bare FastAPI."""
    found = kept("load")
    records = [record for record in found.tables["traffic"].records() if record["bare"] is not None]
    titles = (
        "jobs accepted\na second",
        "an accept, p99,\nms",
        "an accept, ms\nof processor",
        "a poll, median,\nms",
        "a poll, p99,\nms",
    )
    figure, axes = figure_of(len(records))
    for axis, record, title in zip(axes, records, titles, strict=True):
        bars = axis.bar(("bare", "Darkroom"), (record["bare"], record["ours"]), color=(MUTED, SERIES[0]), width=0.7)
        axis.bar_label(bars, fmt="{:g}", color=INK, padding=2)
        axis.set_yticks([])
        axis.margins(y=0.15)
        axis.set_title(title)
    signed(figure, found)
    return figure


def memory(kept: Kept) -> Figure:
    """Memory of the worker by seats, beside the stock pipeline's that draws as many pictures in one call."""
    found = kept("memory")
    figure, (axis,) = figure_of(1)
    records = list(found.tables["seats"].records())
    seats = [record["seats"] for record in records]
    columns = {
        "ready_mb": "worker, ready",
        "peak_mb": "worker, all seats drew, at most",
        "stock_mb": "stock pipeline, at most",
    }
    for color, (column, label) in zip(SERIES, columns.items(), strict=True):
        axis.plot(seats, [record[column] for record in records], "o-", color=color, label=label)
    axis.set_xticks(seats)
    from_zero(axis)
    axis.legend(loc="lower right")
    titled(axis, "Bundled model, CPU", "seats, or pictures in one call", "resident memory, MB")
    signed(figure, found)
    return figure


PICTURES: dict[str, Callable[[Kept], Figure]] = {each.__name__: each for each in (latency, rows, traffic, memory)}


def page_with_tables(page: str, kept: Kept) -> str:
    """The page with its tables as the kept figures say them. KeyError for a table that there is not."""

    def block(match: re.Match[str]) -> str:
        found = kept(match[2])
        return f"{match[1]}{provenance(found)}.\n\n{found.tables[match[3]].markdown()}{match[4]}"

    return BLOCK.sub(block, page)


def reader(folder: Path) -> Kept:
    return lambda name: Figures.read(folder / f"{name}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the JSON files, and of the pictures")
    parser.add_argument("--pages", type=Path, nargs="*", default=PAGES)
    options = parser.parse_args()
    kept = reader(options.figures)
    for name, draw in PICTURES.items():
        save(lambda draw=draw: draw(kept), options.figures / f"{name}.svg")
    for page in options.pages:
        page.write_text(page_with_tables(page.read_text(), kept))


if __name__ == "__main__":
    main()
