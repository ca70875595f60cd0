"""What workers on this machine share: the cores that compute, and the GPUs that torch sees.

Knows the system's own words for cores, and which process knows the GPUs. Refuses to know who gets which.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOOK_SECONDS = 300
"""torch is imported for it: seconds, or a minute from a slow disk."""


def cores(root: Path = Path("/")) -> int:
    """Those that this process may use. Of a core with two threads one is counted, as torch does: the second would only
    wait for the units of the first. `root` is where `sys` is."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    return len({_siblings(root, number) for number in usable})


def _siblings(root: Path, number: int) -> str:
    """Of the processor of this number: all that share its core, in the kernel's spelling."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def gpus() -> Sequence[str]:
    """As DARKROOM_DEVICE names them. None where the worker's packages are missing: it will say so itself."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "worker.devices"], capture_output=True, text=True, timeout=LOOK_SECONDS
        )
        return [str(gpu) for gpu in json.loads(done.stdout)]
    except (ValueError, OSError, subprocess.TimeoutExpired):
        return []
