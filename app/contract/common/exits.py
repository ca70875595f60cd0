"""Exit codes that one process says and another understands: sysexits.h, and one beside it."""

from __future__ import annotations

CANNOT_START = 78
"""EX_CONFIG: no restart will mend it. A supervisor gives up and shows the reason."""

LOST_DEVICE = 75
"""EX_TEMPFAIL: the device or a step is stuck. A supervisor starts the worker again."""

DRAINED = 79
"""A worker has left because an operator wants it away. A supervisor does not start it again by itself; one that was
stopped by a signal ends with 0, since that may have been meant as a restart."""
