"""The code of an older version, laid out so that a process can run with it in the place of this one.

Knows git and folders. Refuses to know what is done with the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

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


def play(folder: Path, *words: str) -> bytes:
    """What `PLAYED` prints, run with the code in `folder`. Raises CalledProcessError; its log goes to our stderr."""
    command = [sys.executable, "-m", PLAYED, *words]
    # Both: the working directory is where -m looks first, and an editable install is asked after the path.
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NoSuchVersion("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoSuchVersion(f"git has no {words[-1]} here: {error.stderr.decode().strip()}") from None
