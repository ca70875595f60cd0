"""A terminal of so many rows and columns: a command runs in it, and a test reads what its user would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pyte

from tests.app.conftest import Running
from tests.cli.conftest import environment_of, hearing_ctrl_c
from tests.system.conftest import COMMAND
from tests.waiting import WAIT_SECONDS, until

STOOD = [f"$ what stood here before, line {number}" for number in range(4)]


class Terminal:
    """What came out of the command, as pyte draws it. `lines` are those that scrolled away and those on the screen."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, *, rows: int, columns: int) -> None:
        self.process = process
        self.raw = b""
        self._master = master
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self.hear("".join(f"{line}\r\n" for line in STOOD).encode())

    @property
    def screen(self) -> list[str]:
        """The lines in sight, without the empty ones below."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").split("\n")

    @property
    def lines(self) -> list[str]:
        columns = range(self._screen.columns)
        gone = ["".join(line[at].data for at in columns).rstrip() for line in self._screen.history.top]
        return gone + self.screen

    def hear(self, data: bytes) -> None:
        """Whatever writes to the terminal: the command, or somebody beside it."""
        self.raw += data
        self._stream.feed(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def look(self) -> bool:
        """Take in what is there. False once the command has ended and all was read."""
        # The slave is closed here: the end of the command is an error (Linux) or an end of file.
        while select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.hear(data)
        return True

    def until(self, *shown: str) -> None:
        """Wait until neighbouring lines in sight hold these. TimeoutError tells what was in sight."""

        def seen() -> bool:
            goes_on = self.look()
            lines = self.screen
            places = range(len(lines) - len(shown) + 1)
            found = any(all(map(str.__contains__, lines[at:], shown)) for at in places)
            assert found or goes_on, (shown, self.lines)
            return found

        try:
            until(seen)
        except TimeoutError:
            raise TimeoutError("\n".join([f"never seen: {shown}", *self.screen])) from None

    def end(self) -> int:
        """The exit code, when everything was read."""
        until(lambda: not self.look())
        return self.process.wait(WAIT_SECONDS)


@contextlib.contextmanager
def in_a_terminal(
    gateway: Running, *arguments: str, cwd: Path, rows: int = 24, columns: int = 80, **environment: str
) -> Iterator[Terminal]:
    """`darkroom …` as the foreground of a terminal of its own: Ctrl-C and Ctrl-Z typed into it reach the command."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    given = {name: value for name, value in environment_of(gateway).items() if name not in ("COLUMNS", "NO_COLOR")}
    with hearing_ctrl_c():
        process = subprocess.Popen(
            [COMMAND, *arguments],
            env=given | {"TERM": "xterm-256color"} | environment,
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The first terminal that a session's leader opens is its own.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
    os.close(slave)
    with process:
        try:
            yield Terminal(process, master, rows=rows, columns=columns)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            os.close(master)
