"""`darkroom webhooks`: settings and log for the process that delivers."""

from __future__ import annotations

import sys

from app.contract.common.environment import SettingsError
from app.contract.common.exits import CANNOT_START
from app.contract.common.logs import configure
from app.settings import settings_from_env
from app.webhooks import main


def run() -> int:
    """Deliver until SIGTERM or SIGINT. Returns the exit code."""
    try:
        settings = settings_from_env()
    except SettingsError as error:
        print(f"darkroom webhooks: {error}", file=sys.stderr)
        return CANNOT_START
    configure(settings.log_level, process="webhooks")
    return main.run(settings)
