"""Run the tests on a machine that is busy and stands still: `python -m tests.stalled [pytest's arguments]`.

Every processor is kept busy by a process of its own, and every few seconds the whole tree of the tests (pytest, the
servers, the workers, the browser) is stopped for some seconds, as a machine is that swaps or is moved. A test that
fails here and passes alone had a verdict that depends on speed. Takes about three times as long as `make test`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import psutil

STOPPED_SECONDS = 2.5
RUNS_SECONDS = (4.0, 10.0)

BUSY = "while True: pass"


def main() -> int:
    chance = random.Random(7)
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    # pytest's own limit for a test is a guard against hanging; here it would be a verdict.
    tests = subprocess.Popen([sys.executable, "-m", "pytest", "-o", "timeout=900", *sys.argv[1:]])
    try:
        while tests.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                tests.wait(chance.uniform(*RUNS_SECONDS))
                break
            stop_tree(tests.pid, STOPPED_SECONDS)
    finally:
        for process in (*busy, tests):
            process.kill()
    return tests.wait()


def stop_tree(pid: int, seconds: float) -> None:
    """Stop a process and all below it for so long. What is born meanwhile is a child of a stopped one: nothing is.
    Not those that a test has stopped: they would go on before it says so."""
    stopped = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_STOPPED:
                    process.send_signal(signal.SIGSTOP)
                    stopped.append(process)
    time.sleep(seconds)
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    raise SystemExit(main())
