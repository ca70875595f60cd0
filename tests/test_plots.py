"""The pictures and tables of docs/benchmarks.md are what the kept figures say, and readable on light and dark."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from benchmarks.plot_style import CARD, DARK, INK, MUTED, SERIES, save
from benchmarks.plots import BLOCK, FIGURES, PAGE, PAGES, PICTURES, page_with_tables, reader
from benchmarks.report import Column, Figures, Report

KEPT = reader(FIGURES)
COLUMNS = {"rows": Column(label="rows"), "ms": Column(label="step, ms", format=".1f")}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_its_figures_draw(name: str, tmp_path: Path) -> None:
    """Byte for byte: `make plots` without new figures changes nothing."""
    file = tmp_path / f"{name}.svg"
    save(lambda: PICTURES[name](KEPT), file)
    assert file.read_text() == (FIGURES / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", PICTURES)
def test_each_colour_has_a_dark_one(name: str) -> None:
    styles = re.findall(r'style="([^"]*)"', (FIGURES / f"{name}.svg").read_text())
    colours = set(chain.from_iterable(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", style) for style in styles))
    assert CARD in colours
    assert colours <= DARK.keys()


def contrast(a: str, b: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(a), luminance(b)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("colour", [INK, MUTED, *SERIES])
def test_text_and_lines_stand_out(colour: str) -> None:
    assert contrast(colour, CARD) >= 4.5
    assert contrast(DARK[colour], DARK[CARD]) >= 4.5


def test_the_page_shows_every_picture_in_words_too() -> None:
    shown = dict(re.findall(r"!\[([^\]]*)\]\(figures/(\w+)\.svg\)", PAGE.read_text()))
    assert sorted(shown.values()) == sorted(PICTURES)
    assert all(len(words) > 60 for words in shown)
    assert "docs/figures/latency.svg" in (PAGE.parents[1] / "README.md").read_text()


@pytest.mark.parametrize(("file", "tables"), list(zip(PAGES, (7, 7), strict=True)))
def test_the_tables_of_a_page_are_the_kept_ones(file: Path, tables: int) -> None:
    page = file.read_text()
    assert len(BLOCK.findall(page)) >= tables
    assert page_with_tables(page, KEPT) == page


def test_what_is_kept_is_small_and_says_where_it_is_from() -> None:
    for file in FIGURES.glob("*.json"):
        found = Figures.read(file)
        assert found.command.startswith(f"python -m benchmarks.{found.benchmark}")
        assert found.hardware
        assert found.versions.get("python")
        assert file.stat().st_size < 20_000


def test_drawing_needs_no_torch() -> None:
    code = "import sys; import benchmarks.plots; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PAGE.parents[1])


def test_a_file_is_there_after_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    monkeypatch.setattr(sys, "argv", ["x", "--pairs", "3", "--json", str(file)])
    report = Report("engine", file, gpu="a card")
    report.add("steps", COLUMNS, rows=2, ms=28.24)
    first = Figures.read(file)
    report.add("steps", COLUMNS, rows=4, ms=None)
    found = Figures.read(file)
    assert (first.tables["steps"].rows, found.tables["steps"].rows) == ([[2, 28.24]], [[2, 28.24], [4, None]])
    assert found.command == "python -m benchmarks.engine --pairs 3"
    assert found.hardware.startswith("a card; ")
    assert capsys.readouterr().out.endswith("| rows | step, ms |\n|---|---|\n| 2 | 28.2 |\n| 4 |  |\n")


def test_a_row_has_every_column_and_no_other() -> None:
    report = Report("engine")
    with pytest.raises(ValueError, match="rows"):
        report.add("steps", COLUMNS, ms=1.0)
    with pytest.raises(ValueError, match="reach"):
        report.add("steps", COLUMNS, rows=1, ms=1.0, reach=0.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [('"rows": [\n    [', '"rows": [\n    [1, '), ('"hardware"', '"machine"'), ('"format": ".2f"', '"format": "x"')],
    ids=["a cell too many", "a name of its own", "a format that no number has"],
)
def test_what_is_no_file_of_ours_is_refused(before: str, after: str, tmp_path: Path) -> None:
    text = (FIGURES / "trace.json").read_text()
    assert before in text
    (tmp_path / "a.json").write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match="Figures"):
        reader(tmp_path)("a")
