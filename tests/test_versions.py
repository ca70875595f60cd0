"""Releases with known holes are refused by pyproject.toml, and not installed here."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

FLOORS = {
    "starlette": "1.3.1",
    "python-multipart": "0.0.22",
    "pillow": "12.3.0",
    "torch": "2.10",
    "transformers": "5.3",
    "diffusers": "0.38",
}
"""The first release without the holes that matter to a service that takes requests from strangers and reads models."""


@pytest.mark.parametrize("name", list(FLOORS))
def test_floors(name: str) -> None:
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["worker"]
    [found] = [wanted for wanted in map(Requirement, lines) if wanted.name == name]
    floor = Version(FLOORS[name])
    lowest = min(Version(part.version) for part in found.specifier if part.operator in (">=", "=="))
    assert lowest >= floor
    assert Version(version(name)) >= floor
