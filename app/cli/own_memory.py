"""The memory of a process that holds keys: no other process of the same user looks into it.

Knows prctl(2) of Linux. Refuses to know what the keys are for.
"""

from __future__ import annotations

import ctypes
import os
import sys

import structlog

log = structlog.get_logger()

PR_SET_DUMPABLE = 4
"""linux/prctl.h."""


def close_memory() -> None:
    """From now on no other process of this user reads our memory and environment or attaches a debugger; root still
    does (prctl(2), PR_SET_DUMPABLE; ptrace(2), "Ptrace access mode checking").

    It costs the core dump. Programs that we start begin without it. Where it cannot be, the log says so.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_DUMPABLE, *(ctypes.c_ulong(0) for _ in range(4))):
            raise OSError(number := ctypes.get_errno(), os.strerror(number))
    except (OSError, AttributeError) as error:
        log.warning("other processes of this user can read our memory", reason=str(error))
