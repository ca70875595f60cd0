"""Exit codes that one process says and another understands (sysexits.h)."""

from __future__ import annotations

CANNOT_START = 78
"""EX_CONFIG: no restart will mend it. A supervisor gives up and shows the reason."""

LOST_DEVICE = 75
"""EX_TEMPFAIL: the device or a step is stuck. A supervisor starts the worker again."""
