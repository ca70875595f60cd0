"""The code of an older version, laid out so that a process can run with it in the place of this one.

Knows git and folders. Refuses to know what is done with the code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TAKEN = ("app", "worker", "pyproject.toml")
PLAYED = "benchmarks.scale.run"


class NoSuchVersion(Exception):
    """The revision cannot be had. One sentence."""


def named(revision: str) -> str:
    """The revision's short hash. Raises NoSuchVersion."""
    return _git("rev-parse", "--short", "--verify", f"{revision}^{{commit}}").decode().strip()


def lay_out(revision: str | None, folder: Path) -> Path:
    """A folder from which `PLAYED` runs with the code of a revision, or with that of this folder for None.

    Raises NoSuchVersion.
    """
    if revision is None:
        return ROOT
    with tarfile.open(fileobj=BytesIO(_git("archive", revision, *TAKEN))) as archive:
        archive.extractall(folder, filter="data")
    # The players are today's: only what they play with is of the older version.
    players = Path("benchmarks") / "scale"
    shutil.copytree(ROOT / players, folder / players, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "benchmarks" / "__init__.py").touch()
    return folder


class Player:
    """`PLAYED` with the code in `folder`, until `close`. Its log goes to our stderr."""

    def __init__(self, folder: Path, *words: str) -> None:
        # Both: the working directory is where -m looks first, and an editable install is asked after the path.
        environment = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, "-m", PLAYED, *words]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True)

    def play(self, part: str) -> dict[str, Any]:
        """What it found in a part. RuntimeError if it has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(part, file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the process that played {part} has ended")
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.communicate()


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NoSuchVersion("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoSuchVersion(f"git has no {words[-1]} here: {error.stderr.decode().strip()}") from None
