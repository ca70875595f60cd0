"""Asking before what cannot be taken back, or lets strangers in."""

from __future__ import annotations

import sys

import typer


def confirm(question: str) -> None:
    """Ends the command unless the answer is yes. Where nobody is there to give one, --yes is named."""
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        if not sys.stdin.isatty():
            print("\ndarkroom: nobody said yes; --yes goes on without asking", file=sys.stderr)
        raise
