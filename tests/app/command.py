"""`darkroom` in this process: to start an interpreter takes twenty times what most commands do."""

from __future__ import annotations

import functools
import os
import subprocess
from unittest.mock import patch

import structlog
import typer.main
import typer.testing

from app.cli.main import app

put_together = functools.cache(typer.main.get_command)


def darkroom(*arguments: str, redis_url: str) -> subprocess.CompletedProcess[str]:
    """As a process would be told, and what it would say. No command may end in a traceback. The gateway beside it is
    silent meanwhile: it logs to the output that is read here."""
    names = [name for name in os.environ if name == "COLUMNS" or name.startswith(("REDIS", "DARKROOM"))]
    environment = dict.fromkeys(names) | {"REDIS_URL": redis_url}
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        with patch.object(typer.testing, "_get_command", put_together):
            result = typer.testing.CliRunner().invoke(app, arguments, env=environment)
    finally:
        structlog.configure(**before)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
