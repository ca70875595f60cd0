"""What a command shows on a terminal while jobs are drawn: a bar for each, and one for all of them.

Knows rich. Everything goes to stderr, so that stdout holds results only. Refuses to know where the news come from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from app.cli.client import Job, over
from app.cli.plain import plain

SHOWN = 12
"""Bars at once: the jobs that were sent first. The bar of all counts the others."""

LABEL = 40
FILE_WIDTH = 240
"""Characters of a table's line in a file or a pipe."""


class Bars:
    """Bars of jobs. `with` it; without a terminal it draws nothing."""

    def __init__(self, screen: Console, *, jobs: int | None = None) -> None:
        """`jobs` is how many there will be, None if nobody knows: without a bar for all then."""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=screen,
            transient=True,
            # Results are printed while bars are shown, and stdout may be a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.are_drawn = screen.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._whole = self._progress.add_task("all", total=jobs) if jobs is not None and jobs > 1 else None

    def __enter__(self) -> Self:
        if self.are_drawn:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.are_drawn:
            self._progress.stop()

    def show(self, job: Job) -> None:
        """The job as it is now; its bar goes when it is over."""
        if over(job):
            self._end(job["id"])
            return
        task = self._tasks.get(job["id"])
        if task is None:
            visible = len(self._tasks) < SHOWN
            task = self._tasks[job["id"]] = self._progress.add_task("", total=None, visible=visible)
        progress = job["progress"]
        steps = progress["steps"] if job["status"] == "running" else None
        self._progress.update(task, description=_label(job), completed=progress["step"], total=steps)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bars make room for something that is printed."""
        if self.are_drawn:
            self._progress.stop()
        try:
            yield
        finally:
            if self.are_drawn:
                self._progress.start()

    def _end(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            self._progress.remove_task(task)
        if self._whole is not None:
            self._progress.advance(self._whole)
        for task in list(self._tasks.values())[:SHOWN]:
            self._progress.update(task, visible=True)


def paper() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for any line where there is none."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=FILE_WIDTH)


def say(text: str) -> None:
    """Print a result at once. A reader that has gone (`| head`) does not end what is under way."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # As the note on SIGPIPE in Python's documentation has it: else the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def standing(job: Job) -> str:
    """Where a job stands, in a few words."""
    queue = job.get("queue") or {}
    if job["status"] == "queued" and queue.get("workers") == 0:
        return "queued, no worker serves its model"
    if job["status"] == "queued" and queue.get("position"):
        return f"queued, {queue['position']} before it"
    if job["status"] == "running":
        return f"running, step {job['progress']['step']} of {job['progress']['steps']}"
    return str(job["status"])


def _label(job: Job) -> str:
    state = standing(job).partition(", step")[0]
    return f"{plain(job['input']['prompt'], LABEL)}  {state}"
