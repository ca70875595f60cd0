"""What is measured when there is a GPU, rehearsed on a CPU: each part goes through and leaves figures.

What it says of this machine is no business of a test's.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import traceback
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import benchmarks.gpu
from benchmarks.gpu import bits, compiled, fewer, probe, speed
from benchmarks.gpu.models import full_size
from benchmarks.gpu.run import Run
from worker.engine import compiled as compiling
from worker.models.bundle import Bundle

MODULES: tuple[ModuleType, ...] = (bits, compiled, fewer, probe, speed)


def run_of(part: str, *, json: Path | None = None) -> Run:
    return Run(argparse.Namespace(device="cpu", small=True, minutes=1_000.0, part=part, json=json))


@cache
def small(kind: str, dtype: torch.dtype) -> Bundle:
    """Made once: every part would make its own."""
    return full_size(run_of("small"), kind, dtype)


def failing() -> None:
    raise


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epsilon_bundle: Bundle) -> Path:
    """The folder where figures go. A section that fails raises here; on a GPU the next one is run."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(traceback, "print_exc", failing)
    monkeypatch.setattr(probe, "load", lambda *given, **options: epsilon_bundle)
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(bits, "TRIALS", 2)
    for module in MODULES:
        monkeypatch.setattr(module, "full_size", lambda run, kind, dtype: small(kind, dtype), raising=True)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (probe.probe, "graph equals eager"),
        (bits.bits, "bits in company"),
        (speed.speed, "sd eager"),
        (speed.xl, "xl eager"),
        (compiled.compiled, "sd compiled"),
        (fewer.fewer, "2 pictures at once, cache 3"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_it_goes_through(part: Any, told: str, rehearsed: Path) -> None:
    part(run_of(part.__name__))
    assert told in (rehearsed / f"gpu-{part.__name__}.json").read_text()
    torch._dynamo.reset()


THERE = ("torch", "transformers", "accelerate", "safetensors", "pillow", "scipy", "psutil")
"""What such a machine has, as benchmarks/gpu says, and with them what they need."""

OURS = ("app", "benchmarks", "worker")


def test_the_wheels_that_are_named_are_all_that_it_needs() -> None:
    """Where there is no package index, one that is missing costs the time for which the machine is had."""
    told = str(benchmarks.gpu.__doc__)
    assert all(each in told for each in THERE)
    fetched = told.partition("-d wheels ")[2].partition("\n\n")[0].replace("\\", "").split()
    there = set[str]()
    for each in (*THERE, *fetched, "numpy"):
        with_its_needs(each, there)
    asked, read = set[str](), set[Path]()
    for module in Path(benchmarks.gpu.__file__).parent.glob("*.py"):
        asked |= asked_for(module, read)
    assert {"torch", "diffusers", "pydantic"} <= asked
    assert {canonical({"PIL": "pillow"}.get(name, name)) for name in asked - sys.stdlib_module_names} <= there


def asked_for(module: Path, read: set[Path]) -> set[str]:
    """Packages that are imported with it, by itself and by what of ours it imports."""
    if module in read or not module.exists():
        return set()
    read.add(module)
    found = set[str]()
    for each in ast.parse(module.read_text()).body:
        names = [alias.name for alias in each.names] if isinstance(each, ast.Import) else []
        if isinstance(each, ast.ImportFrom) and each.module:
            names = [each.module, *(f"{each.module}.{alias.name}" for alias in each.names)]
        for name in names:
            top, *rest = name.split(".")
            if top not in OURS:
                found.add(top)
                continue
            for depth in range(len(rest) + 1):
                place = Path(*[top, *rest][: depth + 1])
                found |= asked_for(place.with_suffix(".py"), read) | asked_for(place / "__init__.py", read)
    return found


def with_its_needs(name: str, known: set[str]) -> None:
    if canonical(name) in known:
        return
    known.add(canonical(name))
    with suppress(PackageNotFoundError):
        for each in distribution(name).requires or []:
            if "extra ==" not in each:
                with_its_needs(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0], known)


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_figures_go_where_somebody_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("OUT", raising=False)
    run_of("xl").note("told", nowhere=1)
    monkeypatch.setenv("OUT", str(tmp_path))
    run_of("bits").note("told", by_folder=1)
    run_of("speed", json=tmp_path / "named.json").note("told", by_name=1)
    assert list(here.iterdir()) == []
    assert {file.name for file in tmp_path.glob("*.json")} == {"gpu-bits.json", "named.json"}
