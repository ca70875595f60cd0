"""Where this program lies, and how it is called in a shell. Knows one file; refuses to know its commands."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def installed() -> Path:
    """The installed `darkroom` of this Python, whatever began this process."""
    return Path(sys.executable).with_name("darkroom")


def as_typed() -> str:
    """The first word of a command that a person copies: `darkroom` where a shell finds this very one, else its path,
    from here if it lies below."""
    program = installed()
    found = shutil.which("darkroom")
    if (found and program.exists() and program.samefile(found)) or not program.exists():
        return "darkroom"
    below = program.is_relative_to(Path.cwd())
    return shlex.quote(str(program.relative_to(Path.cwd()) if below else program))
