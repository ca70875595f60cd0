"""What a command writes arrives whole, in a container's environment and through signals too."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import tty

import pytest

from tests.waiting import WAIT_SECONDS

LINES, LINE = 200, 5_000
WRITES = f"""
import sys
from app.cli.standard_streams import write_whole
write_whole()
for _ in range({LINES}):
    sys.stderr.write("x" * {LINE} + "\\n")
    sys.stderr.flush()
print(sys.stderr.errors, file=sys.stderr)
"""


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["usual", "unbuffered"])
def test_a_writer_that_is_stopped_again_and_again_loses_nothing(environment: dict[str, str]) -> None:
    """A stop cuts a write short; without a buffer of Python's nobody writes the rest."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    master, slave = pty.openpty()
    tty.setraw(slave)
    writer = subprocess.Popen([sys.executable, "-c", WRITES], env=inherited | environment, stderr=slave)
    os.close(slave)
    read, over = b"", threading.Event()

    def stop_and_go() -> None:
        while not over.wait(0.005) and writer.poll() is None:
            writer.send_signal(signal.SIGSTOP)
            over.wait(0.002)
            writer.send_signal(signal.SIGCONT)

    disturbs = threading.Thread(target=stop_and_go)
    disturbs.start()
    try:
        # A terminal that takes little at a time keeps its writer waiting, which is where a stop meets it.
        while data := _read(master):
            read += data
    finally:
        over.set()
        disturbs.join()
        writer.kill()
        writer.wait(WAIT_SECONDS)
        os.close(master)
    assert len(read) > LINES * (LINE + 1)
    assert read[: LINES * (LINE + 1)] == (b"x" * LINE + b"\n") * LINES
    assert read[LINES * (LINE + 1) :] == b"backslashreplace\n"


def _read(master: int) -> bytes:
    """What is there; nothing after the writer's end, which is an error on Linux."""
    try:
        return os.read(master, 2_000)
    except OSError:
        return b""
