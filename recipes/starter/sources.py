"""Where icons and words come from: npm packages of fixed version, fetched once, held against a hash, kept in a cache.

Knows package names, licences and archives; knows nothing of what the icons are for. `npm pack` runs no code of a
package. A machine without a network works from a filled cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Package:
    """An npm package. `sha256` is of the archive that the registry serves."""

    name: str
    version: str
    sha256: str
    licence: str
    author: str
    origin: str
    has_licence_file: bool

    @property
    def archive(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FLUENT = Package(
    name="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    licence="MIT",
    author="Microsoft Corporation",
    origin="https://github.com/microsoft/fluentui-emoji",
    has_licence_file=False,
)
KEYWORDS = Package(
    name="emojilib",
    version="4.0.3",
    sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    licence="MIT",
    author="Mu-An Chiou",
    origin="https://github.com/muan/emojilib",
    has_licence_file=True,
)
PACKAGES = (FLUENT, KEYWORDS)


class SourceError(Exception):
    """The package could not be had, or is not the one that was trained on. The message names the remedy."""


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in `cache`, downloaded if it is not there. Raises SourceError."""
    path = cache / package.archive
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _npm_pack(package, cache)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != package.sha256:
        raise SourceError(f"{path} has sha256 {found}, not {package.sha256}; delete it and fetch it again.")
    return path


def read_member(package: Package, cache: Path, member: str) -> str:
    """The text of one file of the package."""
    with tarfile.open(fetch(package, cache)) as archive:
        file = archive.extractfile(f"package/{member}")
        if file is None:
            raise SourceError(f"{package.archive} holds no {member}; another version of the package is needed.")
        return file.read().decode()


def icons(package: Package, cache: Path, names: list[str]) -> dict[str, str]:
    """Name to a whole SVG document, for an icon set in Iconify's JSON. Raises SourceError for an unknown name."""
    data: dict[str, Any] = json.loads(read_member(package, cache, "icons.json"))
    return {name: _svg(data, name) for name in names}


def _svg(data: dict[str, Any], name: str) -> str:
    icon = data["icons"].get(data.get("aliases", {}).get(name, {}).get("parent", name))
    if icon is None:
        raise SourceError(f"The icon set {data['prefix']} has no {name}; correct the name in words.py.")
    width, height = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def _npm_pack(package: Package, cache: Path) -> None:
    if shutil.which("npm") is None:
        raise SourceError(f"npm is not installed; install it, or put {package.archive} into {cache} by hand.")
    command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise SourceError(f"npm pack {package.name} failed ({reason}); check the network, or fill {cache} by hand.")
