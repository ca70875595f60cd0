"""Exit codes: the same for every command. docs/cli.md shows this table, and a test keeps the two equal."""

from __future__ import annotations

from typing import Final

from app.contract.common.exits import CANNOT_START, DRAINED, LOST_DEVICE

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
UNREACHABLE: Final = 3
DIFFERENT: Final = 4
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "done",
    FAILED: "not all of it: a job failed or was canceled, a picture is not shown, no model is ready, something is in "
    "the way of the service",
    REFUSED: "asked for wrongly: an option, a file, a parameter that the service refuses, a job that does not exist",
    UNREACHABLE: "the service is not there or has no room now; the same command may work later",
    DIFFERENT: "`reproduce` only: it was drawn again, and is not the same",
    LOST_DEVICE: "`worker` only: its device or a step is stuck; start it again",
    CANNOT_START: "`up`, `gateway`, `worker`, `webhooks`: cannot start, and the message says what to change",
    DRAINED: "`worker` only: it was drained, and `up` does not start it again",
    INTERRUPTED: "ended by Ctrl-C",
}
