"""Fetch a model's files from a pinned address and keep only what has the hash that was written down.

python fetch_model.py URL MANIFEST FOLDER: URL is followed by each path of MANIFEST, which has the lines of sha256sum.
What is there already and has its hash is not fetched again. A file gets its name once it is whole, and the folder is
what the manifest says and nothing else, but for what another pod is fetching. Standard library only: it runs before
anything else does. Knows no model, and not who reads the folder: another revision wants another one.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

CHUNK = 2**20
SILENT_SECONDS = 60
PART = ".part"
ABANDONED_SECONDS = 3600
"""A part to which nothing came for so long is of a pod that was killed."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


class Refused(Exception):
    """One sentence. Nothing that is wrong is left in the folder under its name."""


def read_manifest(text: str) -> dict[str, str]:
    """Path to SHA-256. Raises Refused for a line of another form, or a path that leads out of the folder."""
    wanted: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        found = _LINE.fullmatch(line)
        path = found[2].removeprefix("./") if found else ""
        if found is None or path.startswith("/") or ".." in path.split("/") or "\\" in path:
            raise Refused(
                f"the manifest has a line that is none of sha256sum's, or leads out of the folder: {line[:99]!r}"
            )
        wanted[path] = found[1]
    if not wanted:
        raise Refused("the manifest names no file")
    return wanted


def fetch(base: str, wanted: dict[str, str], folder: Path) -> int:
    """Make the folder what the manifest says. The number of files that were fetched. Raises Refused."""
    folder.mkdir(parents=True, exist_ok=True)
    fetched = 0
    for path, digest in wanted.items():
        target = folder / path
        if not (target.is_file() and _digest(target) == digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            _one(base, path, digest, target)
            fetched += 1
    _clean(folder, wanted)
    return fetched


def _clean(folder: Path, wanted: dict[str, str]) -> None:
    for file in [each for each in folder.rglob("*") if each.is_file()]:
        if str(file.relative_to(folder)) not in wanted and not _may_be_under_way(file):
            # Another pod of the volume may clean up as well.
            file.unlink(missing_ok=True)


def _may_be_under_way(file: Path) -> bool:
    """Whether another pod may be fetching it: what comes is written at once, and a server that is silent is left."""
    try:
        return file.suffix == PART and time.time() - file.stat().st_mtime < ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _one(base: str, path: str, digest: str, target: Path) -> None:
    # Its own name for each process: two pods of one volume must not write into each other's file.
    part = target.with_name(f".{target.name}.{os.uname().nodename}.{os.getpid()}{PART}")
    url = f"{base.rstrip('/')}/{urllib.parse.quote(path)}"
    try:
        with urllib.request.urlopen(url, timeout=SILENT_SECONDS) as answer, part.open("wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if (found := _digest(part)) != digest:
            raise Refused(f"{path} has the hash {found} and not {digest}: another revision, or damaged on the way")
        part.rename(target)
    except (OSError, urllib.error.URLError) as error:
        raise Refused(f"{path} could not be fetched ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not arguments[0].startswith(("https://", "http://")):
        print("usage: fetch_model.py URL MANIFEST FOLDER", file=sys.stderr)
        return 2
    base, manifest, folder = arguments
    try:
        wanted = read_manifest(Path(manifest).read_text())
        fetched = fetch(base, wanted, Path(folder))
    except (Refused, OSError) as error:
        print(f"fetch_model: {error}", file=sys.stderr)
        return 1
    print(f"fetch_model: {len(wanted)} files in {folder} are as the manifest says, {fetched} of them fetched now")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
