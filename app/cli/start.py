"""Where the command begins, before anything is loaded: that takes a second, and a Ctrl-C may come within it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command. Commands that have begun hear a Ctrl-C themselves."""
    try:
        from app.cli.importing import without_collector

        with without_collector():
            from app.cli.main import main as run

        run()
    except KeyboardInterrupt:
        from app.cli.exits import INTERRUPTED

        sys.exit(INTERRUPTED)
