"""What a command writes arrives whole, in a container's environment and through signals too."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import tomllib
import tty
from pathlib import Path

import pytest

from tests.waiting import WAIT_SECONDS

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
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


FULL = "/dev/full"
STARTS = "from {} import {}; main()".format(*PYPROJECT["project"]["scripts"]["darkroom"].split(":"))


def test_a_full_disk_behind_the_output_is_told() -> None:
    command = [sys.executable, "-c", STARTS, "--version"]
    with open(FULL, "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS)
    assert (ended.returncode, ended.stderr) == (1, "darkroom: the output cannot be written: No space left on device\n")


def test_closed_streams_lead_nowhere() -> None:
    """As daemons start programs. The first file that is opened would have the number of the output else, and be written
    to by whoever says something; in a program that this one starts, too."""
    program = """
import os, subprocess, sys
from app.cli.standard_streams import write_whole
write_whole()
print("said", flush=True)
print("said", file=sys.stderr)
child = subprocess.run(["sh", "-c", ": <&0 && : >&1 && : >&2"])
sys.exit(os.open(os.devnull, os.O_RDONLY) if child.returncode == 0 else 1)
"""
    command = [sys.executable, "-c", program]
    closing = subprocess.run(command, preexec_fn=lambda: os.closerange(0, 3), timeout=WAIT_SECONDS)
    assert closing.returncode == 3


def test_what_cannot_be_logged_ends_nothing() -> None:
    """A log on a full disk, written by structlog, by the standard library and with print."""
    logs = """
import logging, sys
from app.cli.standard_streams import never_fail_output, write_whole
write_whole(); never_fail_output()
from app.contract.common.logs import configure
configure("info", process="test")
import structlog
for _ in range(2_000):
    structlog.get_logger().info("kept")
    logging.getLogger("other").warning("kept")
    print("kept", flush=True)
    print("kept", file=sys.stderr)
sys.exit(7)
"""
    with open(FULL, "w") as full:
        ended = subprocess.run([sys.executable, "-c", logs], stdout=full, stderr=full, timeout=WAIT_SECONDS)
    assert ended.returncode == 7


def test_a_ctrl_c_while_the_command_is_loaded() -> None:
    """It comes as the first module is looked for that takes its time."""
    program = """
import sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
"""
    command = [sys.executable, "-c", program + STARTS, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_collector_of_garbage_rests_while_a_process_is_loaded() -> None:
    """And works while it runs."""
    program = """
import gc
from importlib.metadata import EntryPoint
seen = []
class Seeing(EntryPoint):
    def load(self):
        seen.append(gc.isenabled())
        return lambda: print([*seen, gc.isenabled(), gc.get_freeze_count() > 0])
import app.cli.main
app.cli.main.entry_points = lambda **of: [Seeing(of["name"], "none", of["group"])]
"""
    command = [sys.executable, "-c", program + STARTS, "webhooks"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert ended.stdout == "[False, True, True]\n", ended.stderr
