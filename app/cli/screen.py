"""What a command shows on a terminal while jobs are drawn: a bar for each, and one for all of them.

Bars go to stderr, so that stdout holds results only. What is printed while they are shown goes through `aside`: it
stays above them. Refuses to know where the news come from.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from app.cli.answers import about
from app.cli.client import CommandError, Job, is_terminal
from app.cli.exits import FAILED
from app.cli.plain import plain
from app.cli.standard_streams import lead_output_nowhere

SHOWN = 12
"""Bars at once: the jobs that were sent first. The bar of all counts the others."""

LABEL = 40
WIDE = 72
"""Columns from which a bar has room for its whole length."""


class Bars:
    """Bars of jobs. `with` it; where nobody could read them it draws nothing."""

    def __init__(self, *, jobs: int | None = None) -> None:
        """`jobs` is how many there will be, None if nobody knows: without a bar for all then."""
        self._screen = Console(stderr=True)
        # Also asked itself: colours may be forced upon a file, and then rich takes it for a terminal.
        self.are_drawn = self._screen.is_interactive and sys.stderr.isatty() and not _is_read_by_another()
        # Never started itself: it only says how the bars look.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(bar_width=24 if self._screen.width >= WIDE else 8),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._screen,
        )
        self._live: Live | None = None
        self._tasks: dict[str, TaskID] = {}
        self._whole = self._progress.add_task("all", total=jobs) if jobs is not None and jobs > 1 else None

    def __enter__(self) -> Self:
        if self.are_drawn:
            self._draw()
            self._stop_well(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.are_drawn:
            self._stop_well(False)
            self._wipe()

    def show(self, job: Job) -> None:
        """The job as it is now; its bar goes when it is over."""
        task = self._tasks.get(job["id"])
        if task is None:
            task = self._tasks[job["id"]] = self._progress.add_task("", total=None)
        if is_terminal(job):
            self.end(job["id"])
            return
        progress = job["progress"]
        steps = progress["steps"] if job["status"] == "running" else None
        self._progress.update(task, description=_label(job), completed=progress["step"], total=steps)

    def end(self, job_id: str | None) -> None:
        """A job is over, or out of sight, and may be so twice; None: one of them could not be sent."""
        if job_id is not None:
            task = self._tasks.pop(job_id, None)
            if task is None:
                return
            self._progress.remove_task(task)
        if self._whole is not None:
            self._progress.advance(self._whole)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bars make room for something that is printed, and come back below it."""
        was_drawn = self._live is not None
        self._wipe()
        try:
            yield
        finally:
            if was_drawn:
                self._draw()

    def _draw(self) -> None:
        # A new one each time: a Live that was stopped and is started again believes its lines to be still there, and
        # erases as many lines above the cursor, whatever they are by now.
        self._live = Live(
            console=self._screen,
            get_renderable=self._few,
            transient=True,
            refresh_per_second=10,
            # Results are printed while bars are shown, and stdout may be a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def _few(self) -> Table:
        """As many bars as there is room for: what is higher than the screen could not be erased."""
        room = max(1, min(SHOWN + 1, self._screen.height - 2))
        return self._progress.make_tasks_table(self._progress.tasks[:room])

    def _wipe(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _stop_well(self, wanted: bool) -> None:
        """Ctrl-Z: what the shell says meanwhile is not taken for bars of ours."""
        with suppress(RuntimeError, ValueError):  # no event loop, or not the main thread: then Ctrl-Z is nobody's
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_signal_handler(signal.SIGTSTP, self._stand_still)
            else:
                loop.remove_signal_handler(signal.SIGTSTP)

    def _stand_still(self) -> None:
        with self.aside():
            signal.raise_signal(signal.SIGSTOP)


def _is_read_by_another() -> bool:
    """Whether stdout is a pipe: its reader (`| tee`) may write to our terminal at any time, into the bars."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def say(text: str) -> None:
    """Print a result at once. A reader that has gone (`| head`) does not end what is under way.

    Raises CommandError where a file takes no more.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        lead_output_nowhere()
        if not isinstance(error, BrokenPipeError):
            raise CommandError(f"the output cannot be written: {error.strerror}", FAILED) from error


def standing(job: Job) -> str:
    """Where a job stands, in a few words."""
    queue = job.get("queue") or {}
    if job["status"] == "queued" and queue.get("workers") == 0:
        return "queued, no worker serves its model"
    if job["status"] == "queued" and queue.get("position"):
        return f"queued, {queue['position']} before it"
    if job["status"] == "running":
        progress = job["progress"]
        return f"running, step {progress['step']} of {progress['steps']}{_stage(job)}"
    return str(job["status"])


def _stage(job: Job) -> str:
    """Which part of the way it is on, behind what else is said; nothing for a job whose pictures are drawn in one."""
    stage = job["progress"].get("stage")
    return f", {plain(stage)}" if stage else ""


def _label(job: Job) -> str:
    state = standing(job).partition(", step")[0]
    return f"{plain(about(job), LABEL)}  {state}{_stage(job) if job['status'] == 'running' else ''}"
